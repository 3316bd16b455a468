"""A SLURM of this machine: munged, slurmctld and two slurmd, without cgroups, accounting and GPUs.

From Debian's packages slurm-wlm and munge, as root. Everything of it is in one folder, but the key
and the socket of munge.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "setpriv")
KEY = Path("/etc/munge/munge.key")
SETTINGS = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
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
    for node in ("n1", "n2"):
        (at / f"spool-{node}").mkdir()
    conf = at / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    conf.write_text(SETTINGS.format(host=host, ports=_free_ports(3), at=at))
    started = _munge()
    try:
        for command in (["slurmctld"], ["slurmd", "-N", "n1"], ["slurmd", "-N", "n2"]):
            subprocess.run([*command, "-f", conf], check=True)
        environment = {**os.environ, "SLURM_CONF": str(conf)}
        deadline = time.monotonic() + 60
        while (said := _nodes(environment)).count("idle") < 2:
            assert time.monotonic() < deadline, said
            time.sleep(0.5)
        yield str(conf)
    finally:
        for name in ("slurmd-n1", "slurmd-n2", "slurmctld"):
            _end(at / f"{name}.pid")
        if started is not None:
            started.terminate()
            started.wait()


def _nodes(environment):
    command = ["sinfo", "--noheader", "--Node", "--format=%N %t"]
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout


def _munge():
    """The daemon, where none runs; it must not be root's."""
    if subprocess.run(["munge", "-n"], capture_output=True).returncode == 0:
        return None
    user = pwd.getpwnam("munge")
    if not KEY.exists():
        KEY.write_bytes(os.urandom(1024))
        KEY.chmod(0o400)
        os.chown(KEY, user.pw_uid, user.pw_gid)
    Path("/run/munge").mkdir(exist_ok=True)
    os.chown("/run/munge", user.pw_uid, user.pw_gid)
    who = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    daemon = subprocess.Popen(["setpriv", *who, "munged", "--foreground", "--force"])
    deadline = time.monotonic() + 30
    while subprocess.run(["munge", "-n"], capture_output=True).returncode:
        assert time.monotonic() < deadline, "munged does not answer"
        time.sleep(0.2)
    return daemon


def _end(pid_file):
    with suppress(FileNotFoundError, ProcessLookupError, ValueError):
        pid = int(pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
        while True:  # until it is gone
            os.kill(pid, 0)
            time.sleep(0.1)


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
