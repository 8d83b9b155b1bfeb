"""What a grid would take: cells, jobs and time, before anything runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from sparsemm.config import build_task
from sparsemm.results.store import Store
from sparsemm.sweep import prerequisites
from sparsemm.sweep.cells import Cell
from sparsemm.sweep.jobs import group_into_jobs
from sparsemm.sweep.labels import mask_text

Measured = dict[tuple[str, str], list[tuple[int, float]]]  # (model, task) -> (cells, seconds per sample)


@dataclass(frozen=True)
class Sizing:
    """Into how many jobs (shards of its samples) a task is split.

    Args:
        shards: at least so many.
        job_minutes: and so many that one takes about this time, where the speed was measured; None: no more.
        workers: rounded up to a multiple: these run in one job of the cluster.
    """

    shards: int = 1
    job_minutes: float | None = None
    workers: int = 1

    def split(self, store: Store, jobs: Sequence[Sequence[Cell]]) -> list[int]:
        """The number of shards of each job."""
        if self.job_minutes is None or not jobs:
            return [self.rounded(self.shards)] * len(jobs)
        measured = _measured(store)
        return [self._of(job, _estimate(job, measured), self.job_minutes) for job in jobs]

    def _of(self, job: Sequence[Cell], seconds: float | None, minutes: float) -> int:
        if seconds is None:
            return self.rounded(self.shards)
        needed = min(math.ceil(seconds / (60 * minutes)), len(build_task(job[0].settings)))
        return self.rounded(max(self.shards, needed))

    def rounded(self, shards: int) -> int:
        """So many shards, or more: no worker of a job is left without one."""
        return self.workers * math.ceil(shards / self.workers)


ONE_EACH = Sizing()


def describe(store: Store, cells: Sequence[Cell], points: int, sizing: Sizing = ONE_EACH) -> str:
    """The plan as text: the jobs, their time, and what is missing."""
    done = store.finished(cell.fingerprint for cell in cells)
    jobs = group_into_jobs(cell for cell in cells if cell.fingerprint not in done)
    splits = sizing.split(store, jobs)
    lines = [headline(len(cells), len(done), sum(splits), points)]
    measured = _measured(store) if jobs else {}
    total: float | None = 0.0
    first = 0
    for number, job in enumerate(jobs):
        seconds = _estimate(job, measured)
        total = None if total is None or seconds is None else total + seconds
        model, task = job[0].label["model"], job[0].label["task"]
        masked = mask_text(job[0].label)
        mask = f", {masked}" if masked else ""
        shards = splits[number]
        name = f"job {first}" if shards == 1 else f"jobs {first}-{first + shards - 1}"
        each = None if seconds is None else seconds / shards
        time = duration(each) + " each" * (shards > 1)
        lines.append(f"  {name}: {model} {task}{mask}, {count(len(job), 'cell')}, {time}")
        first += shards
    if jobs:
        lines.append(f"time, one job after the other: {duration(total)}")
    if needs := prerequisites.needs_of(chain.from_iterable(jobs)):
        lines += ["missing, to be brought before a run:", *prerequisites.lines(needs)]
    return "\n".join(lines)


def headline(cells: int, done: int, jobs: int, points: int) -> str:
    """One line: how many cells, how many are done, how many jobs."""
    same = f" ({points} combinations; the others are the same cells)" if points != cells else ""
    if not jobs:
        return f"{count(cells, 'cell')}{same}, all finished"
    return f"{count(cells, 'cell')}{same}, {done} finished, {cells - done} to run in {count(jobs, 'job')}"


def duration(seconds: float | None) -> str:
    """'about 3 min', or 'unknown'."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    return f"about {round(seconds / 60)} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def _measured(store: Store) -> Measured:
    measured: Measured = {}
    for result in store.results(skip_newer=True):
        group: dict[str, Any] = result.get("group") or {}
        if group.get("wall_s") and group.get("samples_timed"):
            measured.setdefault(_names(result["label"]), []).append(
                (int(group["cells"]), group["wall_s"] / group["samples_timed"])
            )
    return measured


def _estimate(job: Sequence[Cell], measured: Measured) -> float | None:
    """Time of the measured group whose number of cells is nearest, scaled up where the job has more."""
    known = measured.get(_names(job[0].label))
    if not known or job[0].needs:
        return None
    cells, per_sample_s = min(known, key=lambda one: abs(one[0] - len(job)))
    return per_sample_s * max(1.0, len(job) / cells) * len(build_task(job[0].settings))


def count(number: int, noun: str) -> str:
    """'1 cell', '2 cells'."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _names(label: dict[str, Any]) -> tuple[str, str]:
    """Model and task, without what tells cells of one sweep apart."""
    model, *extra = label["model"].split()
    return " ".join([model, *(["smoke"] if "smoke" in extra else [])]), label["task"].split()[0]
