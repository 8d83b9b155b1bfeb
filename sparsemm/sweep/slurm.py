"""What SLURM says about jobs: one squeue call, and one sacct call for those that squeue has forgotten."""

import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

PATIENCE_S = 30.0  # a busy controller answers late
KILLED = 500  # job ids of one scancel
ENDED = (
    *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"),
    *("PREEMPTED", "REVOKED"),
)
COLUMNS = ("JobArrayID:80", "Name:250", "State:32", "Reason:120", "NodeList:250", "RestartCnt:12")
MAX_ARRAY = 1001  # SLURM's default of MaxArraySize


@dataclass(frozen=True)
class Queued:
    """One job, or one element of an array, as SLURM sees it."""

    id: str  # 123, or 123_4; of elements that were cancelled before they started 123 or 123_[4-9]
    name: str
    state: str
    reason: str  # why it waits
    node: str
    restarts: int

    @property
    def live(self) -> bool:
        """Whether it waits or runs."""
        return self.state not in ENDED

    @property
    def index(self) -> int | None:
        """Its place in the array; None where this is about a job, or all elements that have no row."""
        last = self.id.partition("_")[2]
        return int(last) if last.isdigit() else None


class SlurmSilent(RuntimeError):
    """SLURM does not answer; the message has its words."""


def is_here() -> bool:
    """Whether this machine has SLURM's commands."""
    return shutil.which("squeue") is not None


def in_queue(names: Iterable[str]) -> list[Queued]:
    """The jobs of these names that the controller knows: all that wait or run, and those that ended lately.

    Raises:
        SlurmSilent: no answer.
    """
    chosen = ",".join(names)
    if not chosen:
        return []
    form = ",".join(f"{column}|" for column in COLUMNS)
    text = _ask("squeue", "-h", "-r", "-t", "all", f"--name={chosen}", "-O", form)
    rows = [[part.strip() for part in line.split("|")] for line in text.splitlines()]
    return [Queued(row[0], row[1], row[2], row[3], row[4], int(row[5] or 0)) for row in rows if len(row) > 5]


def in_accounts(names: Iterable[str], since: float) -> list[Queued]:
    """The jobs of these names in the accounting database; none where there is no database."""
    chosen = ",".join(names)
    if not chosen or shutil.which("sacct") is None:
        return []
    start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since - 60))
    wanted = ("-n", "-P", "-X", "-o", "JobID,JobName,State,NodeList", "-S", start, "--name", chosen)
    try:
        text = _ask("sacct", *wanted)
    except SlurmSilent:
        return []
    found = []
    for line in text.splitlines():
        job, name, state, node = (line.split("|") + [""] * 4)[:4]
        row = Queued(job, name, (state.split() or [""])[0], "", node, 0)
        if state and ("[" not in job or not row.live):  # elements that wait are squeue's to tell
            found.append(row)
    return found


def cancel(ids: Sequence[str]) -> None:
    """Cancel jobs.

    Raises:
        SlurmSilent: SLURM refuses, or does not answer.
    """
    for start in range(0, len(ids), KILLED):
        _ask("scancel", *ids[start : start + KILLED])


@cache
def max_array() -> int:
    """The most elements that an array may have here."""
    try:
        text = _ask("scontrol", "show", "config")
    except SlurmSilent:
        return MAX_ARRAY
    found = [line.partition("=")[2].strip() for line in text.splitlines() if line.startswith("MaxArraySize")]
    return int(found[0]) if found and found[0].isdigit() else MAX_ARRAY


def _ask(program: str, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, check=True, timeout=PATIENCE_S
        )
    except subprocess.CalledProcessError as error:
        raise SlurmSilent(error.stderr.strip() or f"{program}: exit code {error.returncode}") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmSilent(f"{program}: no answer within {PATIENCE_S:.0f} s") from error
    except OSError as error:
        raise SlurmSilent(f"{program}: {error}") from error
    return done.stdout
