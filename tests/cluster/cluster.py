"""A real SLURM on this machine, in a fresh folder, without systemd, munge, a database or root: for tests.

    python tests/cluster/cluster.py start FOLDER      prints the lines that a shell needs to use it
    python tests/cluster/cluster.py stop FOLDER

Its authentication trusts every user of this machine, so never leave one running.
"""

import contextlib
import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun")
START_S = 120.0  # until every node is idle; a second where the machine is not busy
ASK_S = 120.0  # for one client call
PORTS = range(20_000, 32_000)  # below those that the kernel gives to whoever asks for any
FIRST_ID = 10_000_000  # job ids: below 67,000,000, and others for every cluster

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
SlurmUser={me}
SlurmdUser={me}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/slurmd.%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd.%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
PriorityType=priority/basic
EnforcePartLimits=ANY
ReturnToService=2
JobRequeue=1
KillWait=2
MinJobAge=86400
FirstJobId={first}
MaxArraySize={max_array}
MaxJobCount=20000
SlurmctldTimeout=30
SlurmdTimeout={node_timeout}
MessageTimeout=10
TCPTimeout=2
PropagateResourceLimits=NONE
SlurmdParameters=config_overrides
{nodes}
PartitionName=main Nodes=n[1-{count}] Default=YES DefaultTime=60 MaxTime=600 State=UP OverSubscribe=NO
"""
NODE = "NodeName=n{n} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=4000 State=UNKNOWN"

# What slurmdbd would answer: the sacct of a cluster without one always fails. MinJobAge keeps ended jobs.
SACCT = """\
#!/usr/bin/env python3
import subprocess, sys
given = dict(zip(sys.argv, sys.argv[1:]))
wanted = {"-j": "--jobs", "--name": "--name"}
chosen = [f"{wanted[key]}={given[key]}" for key in wanted if key in given]
rows = subprocess.run(
    ["squeue", "-r", "-h", "-t", "all", *chosen, "-o", "%i|%j|%T|%N"], capture_output=True, text=True
).stdout
columns = given.get("-o", "JobID,JobName,State,NodeList").split(",")
if "-n" not in sys.argv:
    print("|".join(columns))
for row in rows.splitlines():
    named = dict(zip(("JobID", "JobName", "State", "NodeList"), row.split("|")))
    print("|".join(named.get(column, "") for column in columns))
"""


def why_not() -> str:
    """Why no cluster can be started here; '' where it can."""
    missing = [name for name in PROGRAMS if _program(name) is None]
    if not missing:
        return ""
    return (
        f"no {', '.join(missing)}: apt-get install slurmctld slurmd slurm-client, or run `make slurm` as root"
    )


@dataclass
class Cluster:
    """Controller and nodes n1, n2, ..., each with 2 CPUs.

    Args:
        root: a folder that is not there, or empty.
        nodes: how many.
        max_array: SLURM's MaxArraySize.
        node_timeout: seconds until a silent node is down.
    """

    root: Path
    nodes: int = 2
    max_array: int = 1001
    node_timeout: int = 10
    env: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        bin_folder = self.root / "bin"
        path = f"{bin_folder}:{os.environ['PATH']}:/usr/sbin"
        self.env = {"SLURM_CONF": str(self.root / "slurm.conf"), "PATH": path}

    def start(self) -> None:
        """Write the configuration, start everything, and wait until every node is idle."""
        for name in ("state", "spool", "run", "log", "bin"):
            (self.root / name).mkdir(parents=True)
        port, *ports = _free_ports(1 + self.nodes)
        host = socket.gethostname().split(".")[0]
        lines = [NODE.format(n=n, host=host, port=port) for n, port in enumerate(ports, start=1)]
        conf = CONF.format(
            host=host, port=port, me=getpass.getuser(), root=self.root, first=_first_id(), count=self.nodes,
            nodes="\n".join(lines), max_array=self.max_array, node_timeout=self.node_timeout,
        )  # fmt: skip
        (self.root / "slurm.conf").write_text(conf)
        sacct = self.root / "bin" / "sacct"
        sacct.write_text(SACCT)
        sacct.chmod(0o755)
        try:
            self.start_controller(clean=True)
            for n in range(1, self.nodes + 1):
                self.start_node(f"n{n}")
            self.wait_for_nodes()
        except BaseException:
            self.stop()
            raise

    def start_controller(self, clean: bool = False) -> None:
        """Start slurmctld; `clean`: without its state, so that job ids begin again."""
        if clean:  # with -c alone it takes the last job id from its old state
            shutil.rmtree(self.root / "state")
            (self.root / "state").mkdir()
        self.ask("slurmctld", *(["-c"] if clean else []))

    def start_node(self, name: str) -> None:
        """Start one slurmd."""
        self.ask("slurmd", "-N", name)

    def wait_for_nodes(self) -> None:
        """Wait until every node is idle."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with contextlib.suppress(subprocess.SubprocessError):
                if len(self.ask("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split()) == self.nodes:
                    return
            time.sleep(0.1)
        logs = "\n".join(path.read_text()[-2000:] for path in (self.root / "log").glob("*.log"))
        raise RuntimeError(f"no idle nodes after {START_S} s\n{logs}")

    def ask(self, *command: str, env: Mapping[str, str] = {}) -> str:
        """The output of a SLURM command."""
        environment = {**os.environ, **self.env, **env}
        program = shutil.which(command[0], path=self.env["PATH"]) or command[0]
        done = subprocess.run(
            [program, *command[1:]],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=ASK_S,
        )
        return done.stdout

    def pid(self, name: str) -> int:
        """The process of slurmctld, or of slurmd.n1 and so on."""
        return int((self.root / "run" / f"{name}.pid").read_text())

    def kill_node(self, name: str) -> None:
        """End slurmd, its slurmstepds and their jobs at once, as when a node loses power."""
        for pid in [self.pid(f"slurmd.{name}"), *self._steps(name)]:
            _kill(pid, signal.SIGKILL)

    def stop_controller(self) -> None:
        """End slurmctld; it saves its state."""
        pid = self.pid("slurmctld")
        _kill(pid, signal.SIGTERM)
        _wait_gone(pid)

    def stop(self) -> None:
        """Cancel every job and end every process of this cluster."""
        with contextlib.suppress(subprocess.SubprocessError, OSError):
            self.ask("scancel", f"--user={getpass.getuser()}", "--signal=KILL")
            self.ask("scancel", f"--user={getpass.getuser()}")
        pids = [int(path.read_text() or 0) for path in (self.root / "run").glob("*.pid")]
        left = [pid for n in range(1, self.nodes + 1) for pid in self._steps(f"n{n}")]
        for pid in filter(None, pids):
            _kill(pid, signal.SIGTERM)
        for pid in left:
            _kill(pid, signal.SIGKILL)
        for pid in filter(None, pids):
            if not _wait_gone(pid):
                _kill(pid, signal.SIGKILL)

    def _steps(self, node: str) -> list[int]:
        """slurmstepds of a node, which keep its log open, and all that runs below them."""
        log = str(self.root / "log" / f"slurmd.{node}.log")
        parents = {pid: parent for pid, parent, _ in _processes()}
        steps = {
            pid for pid, _, words in _processes() if words.startswith("slurmstepd") and log in _open(pid)
        }
        return sorted((pid for pid in parents if steps & set(_line(pid, parents))), reverse=True)


def _line(pid: int, parents: Mapping[int, int]) -> list[int]:
    """A process and those above it."""
    line = [pid]
    while (parent := parents.get(line[-1], 0)) > 1 and parent not in line:
        line.append(parent)
    return line


def _open(pid: int) -> list[str]:
    """Files that a process has open."""
    with contextlib.suppress(OSError):
        return [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]
    return []


def _processes() -> list[tuple[int, int, str]]:
    """pid, parent and command line of every process."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            words = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            found.append((int(path.name), int(fields[1]), words))
    return found


def _kill(pid: int, how: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, how)


def _wait_gone(pid: int, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _free_ports(count: int) -> list[int]:
    found: list[int] = []
    for port in random.sample(PORTS, 100):
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("", port))
            found.append(port)
    return found[:count]


def _first_id() -> int:
    """Another for every cluster, so that ids of an earlier one do not come again."""
    return FIRST_ID + int(time.time()) % 50_000_000


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def main() -> None:
    """start FOLDER | stop FOLDER."""
    if len(sys.argv) != 3 or sys.argv[1] not in ("start", "stop"):
        sys.exit(__doc__)
    if reason := why_not():
        sys.exit(reason)
    cluster = Cluster(Path(sys.argv[2]).absolute())
    if sys.argv[1] == "stop":
        cluster.stop()
        return
    cluster.start()
    print("\n".join(f"export {key}='{value}'" for key, value in cluster.env.items()))


if __name__ == "__main__":
    main()
