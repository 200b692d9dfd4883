"""A real Slurm of one node in a private folder, whose jobs in the partition `urgent` preempt those in `debug`.

What is requeued waits for as long as credentials last (`cred_expire`), 120 s if nothing else is said.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

# Debian keeps the daemons where only root's path leads.
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"
MISSING = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name, path=PATH) is None]
if os.geteuid() != 0:
    MISSING.append("root, as which the node runs jobs")

_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
SlurmUser=root
SlurmdUser=root
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdSpoolDir={folder}/spool
StateSaveLocation={folder}/state
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=2000
ReturnToService=2
MailProg=/bin/true
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/none
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
KillWait=30
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=8000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2
"""


def _free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class _PortTakenError(Exception):
    """Somebody else took a port between our look and the start of a daemon."""


@contextmanager
def slurm() -> Iterator[dict[str, str]]:
    """Start the daemons and wait for the node; yields the environment in which `sbatch` talks to them."""
    with ExitStack() as held:
        for _ in range(5):
            try:
                environment = held.enter_context(_on_free_ports())
                break
            except _PortTakenError:
                continue
        else:
            raise TimeoutError("every port that was free was taken a moment later, five times")
        yield environment


@contextmanager
def _on_free_ports() -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory(prefix="slurm", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for sub in ("spool", "state"):
            (folder / sub).mkdir()
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o400)
        folder.chmod(0o755)
        host = platform.node().split(".")[0]
        text = _CONFIGURATION.format(folder=folder, host=host, ports=_free_ports(2), cpus=os.cpu_count())
        (folder / "slurm.conf").write_text(text)
        environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}
        munge = [
            "munged", "--foreground", "--force", f"--key-file={folder}/munge.key", f"--socket={folder}/munge.sock",
            f"--pid-file={folder}/munge.pid", f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed",
        ]  # fmt: skip
        daemons = []
        try:
            for command in (munge, ["slurmctld", "-D"], ["slurmd", "-D", "-N", host]):
                daemons.append(
                    subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                )
                time.sleep(0.5)
            _wait_for_node(environment, daemons, 60, folder)
            yield environment
        finally:
            for daemon in reversed(daemons):
                daemon.send_signal(signal.SIGTERM)
            for daemon in daemons:
                try:
                    daemon.wait(20)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()


def _wait_for_node(
    environment: dict[str, str], daemons: list[subprocess.Popen[bytes]], seconds: float, folder: Path
) -> None:
    command, until, said = ["sinfo", "-h", "-o", "%T"], time.monotonic() + seconds, ""
    while time.monotonic() < until:
        if any(daemon.poll() is not None for daemon in daemons) and any(
            "Address already in use" in log.read_text(errors="replace") for log in folder.glob("*.log")
        ):
            raise _PortTakenError
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
        said = done.stdout + done.stderr
        if done.stdout.split() == ["idle"]:
            return
        time.sleep(0.1)
    logs = "\n".join(log.read_text()[-2000:] for log in folder.glob("*.log"))
    raise TimeoutError(f"{' '.join(command)} says {said!r}\n{logs}")


def states_of(environment: dict[str, str], job: str) -> dict[str, str]:
    """The state of each task of an array, also of those that ended a short while ago: task -> state."""
    command = ["squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%K %T"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return dict(sorted(line.split() for line in done.stdout.splitlines()))


def wait_for_jobs(environment: dict[str, str], seconds: float = 300) -> None:
    """Wait until the queue is empty."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done = subprocess.run(["squeue", "-h"], env=environment, capture_output=True, text=True, check=True)
        if not done.stdout.strip():
            return
        time.sleep(0.5)
    raise TimeoutError(done.stdout)
