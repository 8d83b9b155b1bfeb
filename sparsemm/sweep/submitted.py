"""What has become of what was submitted to SLURM: sweeps/<id>/slurm.json joined with the queue, by name."""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparsemm.results.files import read_json
from sparsemm.results.store import Store
from sparsemm.sweep import slurm
from sparsemm.sweep.awaiting import names
from sparsemm.sweep.plan import count
from sparsemm.sweep.submission import Job, Part, Submission

GONE_S = 20.0  # after which a job that SLURM does not know is lost, not just being submitted
TAIL_LINES, TAIL_BYTES = 6, 4096  # of a log, on a screen
SHOWN = 8  # lines of one kind on a screen
NEVER = "cancelled before it started"
MEANING = {  # of reasons that do not go away by waiting
    "PartitionTimeLimit": "time_min is above the partition's limit: cancel, and submit with less",
    "PartitionNodeLimit": "the partition has no such nodes",
    "AssocMaxJobsLimit": "your account's limit of jobs",
    "QOSMaxJobsPerUserLimit": "your limit of jobs in this qos",
    "JobHeldUser": "held by you: scontrol release",
    "JobHeldAdmin": "held by an administrator",
    "BeginTime": "at the time that it was given, or requeued a moment ago",
    "JobArrayTaskLimit": "as many run as hydra.launcher.array_parallelism allows",
    "DependencyNeverSatisfied": "it never starts: `sparsemm cancel`, then `sparsemm retry`",
}
NOISE = "Bypassing signal"  # of submitit, in every log of a job that SLURM stops


@dataclass(frozen=True)
class Submitted:
    """One job and what SLURM says about it."""

    job: Job
    id: str
    log: Path
    state: str  # SLURM's; GONE: it knows no such job; UNSENT: it was never submitted
    reason: str = ""
    node: str = ""
    restarts: int = 0
    search: bool = False  # a head search

    @property
    def live(self) -> bool:
        """Whether it waits or runs."""
        return self.state not in (*slurm.ENDED, "GONE", "UNSENT")

    @property
    def name(self) -> str:
        """What it is called on a screen."""
        return f"SLURM {self.id}" + (" (head search)" if self.search else "")

    @property
    def broken(self) -> bool:
        """Whether it ended otherwise than well."""
        return not self.live and self.state not in ("COMPLETED", "UNSENT")

    def line(self) -> str:
        """What a live job does."""
        times = count(self.restarts, "time")
        requeued = f", requeued {times} (preempted, timed out, or a lost node)" if self.restarts else ""
        if self.state == "PENDING":
            return f"{self.name}: pending ({_meaning(self.reason)}){requeued}"
        return f"{self.name}: {self.state.lower()} on {self.node or '?'}{requeued}"

    def words(self) -> str:
        """How a broken job ended, with the end of its log."""
        where = f" on {self.node}" if self.node else ""
        what = "unknown to SLURM, and without a result" if self.state == "GONE" else self.state.lower()
        lines = _tail(self.log)
        if lines is None and self.state == "CANCELLED":
            return f"{self.name}: {NEVER}"
        if lines is None:
            waited = "it was cancelled while it waited, or else " if self.state == "GONE" else ""
            return (
                f"{self.name}: {what}{where}. No log at {self.log}: {waited}if the node could not write "
                "there, give an output folder on a disk that all nodes share."
            )
        if self.state == "OUT_OF_MEMORY":
            what += f"{where}: it needs more hydra.launcher.mem_gb"
            where = ""
        if not lines and self.state == "FAILED":
            return (
                f"{self.name}: {what}{where}, and {self.log} is empty: a full disk, or hydra.launcher.setup?"
            )
        return "\n".join([f"{self.name}: {what}{where}, log {self.log}", *(f"    {one}" for one in lines)])


class Submissions:
    """All submissions of a store; what has not changed is read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[Path, tuple[Any, Submission]] = {}

    def current(self, labels: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Labels by fingerprint; of cells that waited for head scores by the one that they have now."""
        known: dict[str, str] = {}
        for one in self._all():
            known |= names(one.folder) if one.waits else {}
        return {known.get(name, name): label for name, label in labels.items()}

    def about(self, fingerprints: Collection[str]) -> list[Submission]:
        """Those with any of these cells, the newest first."""
        wanted = set(fingerprints)
        found = [one for one in self._all() if not wanted.isdisjoint(one.cells)] if wanted else []
        return sorted(found, key=lambda one: one.created, reverse=True)

    def jobs(self, fingerprints: Collection[str]) -> dict[str, list[Submitted]]:
        """For every cell that was submitted: its jobs that live; without any, those of its last submission.

        Raises:
            SlurmSilent: SLURM does not answer.
        """
        submissions = self.about(fingerprints)
        wanted = set(fingerprints)
        found: dict[str, list[Submitted]] = {}
        for jobs in jobs_of(submissions):
            by_cell: dict[str, list[Submitted]] = {}
            for one in jobs:
                for cell in wanted.intersection(one.job.cells):
                    by_cell.setdefault(cell, []).append(one)
            for cell, mine in by_cell.items():
                living = [one for one in mine if one.live]
                known = found.get(cell)
                if known is None:
                    found[cell] = living or mine
                elif living:
                    found[cell] = [one for one in known if one.live] + living
        return found

    def search(self, asked: Mapping[str, Any]) -> list[Part]:
        """The arrays of a head search that still runs or waits, and writes what this one would.

        Raises:
            SlurmSilent: SLURM does not answer.
        """
        found = [(one, mine) for one in self._all() if (mine := [p for p in one.parts if _is(p, asked)])]
        found.sort(key=lambda pair: pair[0].created, reverse=True)
        for (_, parts), jobs in zip(found, jobs_of([one for one, _ in found]), strict=True):
            ids = {one.log.parent: one.id.partition("_")[0] for one in jobs}
            own = [one for one in jobs if one.log.parent in {part.folder for part in parts}]
            if any(one.live for one in own) and all(one.live or one.state == "COMPLETED" for one in own):
                return [replace(part, id=ids[part.folder]) for part in parts]
        return []

    def cells_behind(self, search: Submitted) -> set[str]:
        """The cells that wait for a head search, of whatever submission: several may share it."""
        parts = (part for one in self._all() for part in one.parts)
        mine = (part for part in parts if part.search and part.folder == search.log.parent)
        return {cell for part in mine for job in part.jobs for cell in job.cells}

    def _all(self) -> list[Submission]:
        found = []
        for path in self._store.sweeps.glob("*/slurm.json"):
            stat = path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            known = self._known.get(path)
            if known is None or known[0] != stamp or known[1].waits:
                read = Submission.read(path)
                if read is None:
                    continue
                self._known[path] = (stamp, read)
            found.append(self._known[path][1])
        return found


def has_own(jobs: Iterable[Submitted]) -> bool:
    """Whether a job that lives runs the cell, not only a head search in front of it."""
    return any(one.live and not one.search for one in jobs)


def note_cancelled(jobs: Iterable[Submitted]) -> None:
    """Write down which jobs were cancelled: SLURM does not say it before they have ended."""
    by_sweep: dict[Path, set[str]] = {}
    for one in jobs:
        by_sweep.setdefault(one.log.parents[2], set()).add(one.id)
    for folder, ids in by_sweep.items():
        if known := Submission.read(folder / "slurm.json"):
            replace(known, cancelled=known.cancelled | ids).write()


def jobs_of(submissions: Sequence[Submission]) -> list[list[Submitted]]:
    """The jobs of each submission; one squeue call, and one sacct call where squeue has forgotten some.

    Raises:
        SlurmSilent: SLURM does not answer.
    """
    names = [part.name for one in submissions for part in one.parts]
    if not names:
        return [[] for _ in submissions]
    if not slurm.is_here():
        raise slurm.SlurmSilent("there is no squeue on this machine's PATH; a login node has it")
    seen = {(one.name, one.index): one for one in slurm.in_queue(names)}
    forgotten = [
        part.name
        for one in submissions
        for part in one.parts
        if any(_row(seen, part.name, index) is None for index in range(len(part.jobs)))
    ]
    if forgotten:
        oldest = min(one.created for one in submissions)
        seen = {(one.name, one.index): one for one in slurm.in_accounts(forgotten, oldest)} | seen
    return [
        [
            _submitted(submission, part, index, _row(seen, part.name, index))
            for part in submission.parts
            for index in range(len(part.jobs))
        ]
        for submission in submissions
    ]


def lines(jobs: Iterable[Submitted]) -> list[str]:
    """Jobs as text: those that run, those that wait (by reason), and how the broken ones ended."""
    unique = list({(one.id, one.log): one for one in jobs}.values())
    running = [one.line() for one in unique if one.live and (one.state != "PENDING" or one.restarts)]
    waiting = Counter(
        (one.id.partition("_")[0], one.reason)
        for one in unique
        if one.state == "PENDING" and not one.restarts
    )
    pending = [
        f"SLURM {job}: {count(number, 'job')} pending ({_meaning(reason)})"
        for (job, reason), number in waiting.items()
    ]
    said = [(one.id.partition("_")[0], one.words()) for one in unique if one.broken]
    never = Counter(job for job, words in said if words.endswith(NEVER))
    broken = [
        f"SLURM {job}: {number} jobs {NEVER.replace('it', 'they')}"
        for job, number in never.items()
        if number > 1
    ]
    broken += [words for job, words in said if not words.endswith(NEVER) or never[job] == 1]
    return [*_cut(running), *_cut(pending), *_cut(broken)]


def states(jobs: Sequence[Submitted]) -> str:
    """How many jobs are in which state, on one line."""
    counts = Counter(one.state.lower() for one in jobs)
    return ", ".join(f"{number} {state}" for state, number in counts.items())


def _is(part: Part, asked: Mapping[str, Any]) -> bool:
    """Whether these are the jobs of a head search for the same file, from the same images."""
    job = read_json(part.jobs[0].files[0]) if part.search else None
    known = (job or {}).get("search", {})
    return all(known.get(key) == asked.get(key) for key in ("out", "model", "data", "samples"))


def _row(seen: Mapping[tuple[str, int | None], slurm.Queued], name: str, index: int) -> slurm.Queued | None:
    """What SLURM says about an element of an array."""
    return seen.get((name, index)) or seen.get((name, None))


def _submitted(submission: Submission, part: Part, index: int, seen: slurm.Queued | None) -> Submitted:
    array = seen.id.partition("_")[0] if seen else part.id or "?"
    job_id = f"{array}_{index}" if len(part.jobs) > 1 else array
    log = part.folder / f"{job_id}_0_log.out"
    fresh = time.time() - submission.created < GONE_S
    state = "UNSENT" if part.id is None else "PENDING" if fresh else "GONE"
    now = (seen.state, seen.reason, seen.node, seen.restarts) if seen else (state, "", "", 0)
    if now[0] == "COMPLETING" and job_id in submission.cancelled:
        now = ("CANCELLED", *now[1:])  # SLURM says so when its processes have ended: half a minute, or more
    return Submitted(part.jobs[index], job_id, log, *now, search=part.search)


def _tail(log: Path) -> list[str] | None:
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - TAIL_BYTES))
            text = stream.read().decode(errors="replace")
    except OSError:
        return None
    return [line for line in text.splitlines() if line.strip() and NOISE not in line][-TAIL_LINES:]


def _meaning(reason: str) -> str:
    more = MEANING.get(reason)
    return f"{reason}: {more}" if more else reason or "no reason given"


def _cut(found: list[str]) -> list[str]:
    more = len(found) - SHOWN
    return [*found[:SHOWN], f"... and {more} more SLURM jobs"] if more > 0 else found
