"""A SLURM of this machine: munged, slurmctld and two slurmd, without cgroups, accounting and GPUs.

From Debian's packages slurm-wlm and munge, as root. Everything of it is in one folder, so that any
number of them run side by side. What its daemons print is in their `.out` there, SLURM's also in
the `.log`.
"""

import os
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager

PROGRAMS = ("munged", "munge", "slurmctld", "slurmd", "sbatch", "squeue", "setpriv")
NODES = ("n1", "n2")
LIMIT = 90  # seconds, for each of its steps; KillWait is within
SETTINGS = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={at}/munge
StateSaveLocation={at}/state
SlurmdSpoolDir={at}/spool-%n
SlurmctldPidFile={at}/slurmctld.pid
SlurmdPidFile={at}/slurmd-%n.pid
SlurmctldLogFile={at}/slurmctld.log
SlurmdLogFile={at}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
ReturnToService=2
JobRequeue=1
KillWait=30
MinJobAge=600
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=2000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=2000
PartitionName=main Nodes=ALL Default=YES MaxTime=1:00:00 State=UP
"""


def lacking():
    """Why there can be none here; None where there can."""
    if os.geteuid() != 0:
        return "a SLURM is started by root only"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


@contextmanager
def slurm(at):
    """Inside, the commands of SLURM find it by the yielded SLURM_CONF."""
    (at / "state").mkdir(parents=True)
    for node in NODES:
        (at / f"spool-{node}").mkdir()
    conf = at / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    conf.write_text(SETTINGS.format(host=host, ports=_free_ports(3), at=at))
    environment = {**os.environ, "SLURM_CONF": str(conf)}
    with ExitStack() as daemons:
        daemons.enter_context(_daemon(at, "munged", *_munge(at)))
        _wait("munged to answer", lambda: not _fails(["munge", "-n", "-S", at / "munge"]))
        daemons.enter_context(_daemon(at, "slurmctld", "slurmctld", "-D", "-f", conf))
        for node in NODES:
            command = ("slurmd", "-D", "-N", node, "-f", conf)
            daemons.enter_context(_daemon(at, f"slurmd-{node}", *command))
        nodes = ["sinfo", "--noheader", "--Node", "--format=%N %t"]
        _wait("two idle nodes", lambda: _said(nodes, environment).count(" idle\n") == 2)
        try:
            yield str(conf)
        finally:  # a job outlives its slurmd
            subprocess.run(["scancel", "--me"], env=environment, timeout=LIMIT, check=True)
            _wait("an empty queue", lambda: not _said(["squeue", "--noheader"], environment))


@contextmanager
def _daemon(at, name, *command):
    """A child, in the foreground: the process that adopts a daemon may leave it a zombie.

    It ends with a test that is killed too.
    """
    command = ["setpriv", "--pdeathsig", "TERM", *command]
    with (at / f"{name}.out").open("wb") as said:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(LIMIT)
        finally:
            process.kill()
            process.wait()


def _munge(at):
    """The command of a munged with a key and a socket of its own."""
    key = at / "munge.key"
    key.touch(0o600)
    key.write_bytes(os.urandom(1024))
    files = {"socket": at / "munge", "key-file": key, "pid-file": at / "munged.pid"}
    files["seed-file"] = at / "munged.seed"
    options = [f"--{name}={path}" for name, path in files.items()]
    return ["munged", "--foreground", "--force", "--num-threads=10", *options]


def _fails(command):
    return subprocess.run(command, capture_output=True, timeout=LIMIT).returncode != 0


def _said(command, environment):
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT)
    return done.stdout + done.stderr


def _wait(what, holds):
    deadline = time.monotonic() + LIMIT
    while not holds():
        assert time.monotonic() < deadline, f"waited {LIMIT} s for {what}"
        time.sleep(0.2)


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
