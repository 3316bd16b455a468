"""Stand-ins for the commands of SLURM: a queue in a file. `slurm_cluster.py` has a real one."""

import os

# A queue of lines `number|state|reason|nodes|comment` in $QUEUE, what was typed in $TYPED.
STAND_INS = {
    "sbatch": """
case " $* " in *" --test-only "*) cat >/dev/null; exit 0;; esac
number=$(( $(wc -l < "$QUEUE") + 1 ))
comment=$(sed -n 's/^#SBATCH --comment="\\(.*\\)"$/\\1/p')
echo "$number|PENDING|Priority||$comment" >> "$QUEUE"
echo "$number;one"
""",
    "squeue": 'cat "$QUEUE"',
    "sinfo": 'echo "main*|1:00:00"; echo "long|infinite"',
    "scancel": "",
    "scontrol": "",
    "sacct": 'echo "Slurm accounting storage is disabled" >&2; exit 1',
}


def stand_ins(folder, monkeypatch):
    """Put them in front of what is installed; `typed` in the folder gets their command lines."""
    folder.mkdir()
    for name, body in STAND_INS.items():
        put(folder, name, body)
    (folder / "queue").touch()
    (folder / "typed").touch()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("QUEUE", str(folder / "queue"))
    monkeypatch.setenv("TYPED", str(folder / "typed"))
    return folder


def put(folder, name, body):
    file = folder / name
    file.write_text(f'#!/bin/bash\necho "{name} $*" >> "$TYPED"\n{body}\n')
    file.chmod(0o755)


def typed(cluster, name):
    lines = (cluster / "typed").read_text().splitlines()
    return [line for line in lines if line.startswith(f"{name} ") and "--test-only" not in line]
