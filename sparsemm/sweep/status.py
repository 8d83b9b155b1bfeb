"""The state of a grid, read from the store: done, running, failed, pending."""

import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from sparsemm.results.files import read_json
from sparsemm.results.leases import alive, running, workers
from sparsemm.results.store import Store
from sparsemm.sweep import slurm
from sparsemm.sweep.plan import count, duration
from sparsemm.sweep.slurm import SlurmSilent
from sparsemm.sweep.submitted import Submissions, Submitted
from sparsemm.sweep.submitted import lines as slurm_lines

REFRESH_S = 2.0
POLITE_S = 10.0  # where SLURM is asked: its controller and its database serve everybody
IDLE_S = 30.0  # without a worker until the watch ends: the next job of a sweep may be starting
ROWS = 60  # of the grid on a screen
REASONS = 8  # of failures on a screen
CLEAR = "\033[H\033[J"
Labels = dict[str, dict[str, Any]]  # fingerprint -> label


@dataclass(frozen=True)
class Subject:
    """What status and report are about."""

    name: str  # of the report
    experiment: str | None
    labels: Labels
    overrides: Sequence[str]


@dataclass(frozen=True)
class State:
    """One cell's state."""

    word: str  # done | running | failed | pending
    mark: str  # in the grid: the score, the progress, or a sign
    reason: str = ""


@dataclass(frozen=True)
class Status:
    """The states of a grid, and the workers that run it."""

    states: dict[str, State]
    workers: list[dict[str, Any]]  # heartbeats of those that hold cells of the grid
    awaited: bool  # a worker or a SLURM job lives (or may) that has cells of the grid that are not done
    jobs: dict[str, list[Submitted]] = field(default_factory=dict)  # of cells that are not done, in SLURM
    silent: str = ""  # why SLURM does not answer

    def count(self, word: str) -> int:
        """How many cells are done, running, failed or pending."""
        return sum(state.word == word for state in self.states.values())

    @property
    def ended(self) -> bool:
        """Whether every cell is done, or failed and nobody tries it again."""
        return not self.awaited and all(state.word in ("done", "failed") for state in self.states.values())


def read_status(store: Store, labels: Labels, submissions: Submissions | None = None) -> Status:
    """Look at every cell once, and at SLURM's queue; `submissions` remembers what was submitted."""
    results = {result["fingerprint"]: result for result in store.results(labels)}
    unfinished = [name for name in labels if name not in results]
    held = running(store, unfinished)
    failures = store.failures(name for name in unfinished if name not in held)
    jobs, silent = dict[str, list[Submitted]](), ""
    try:
        jobs = (submissions or Submissions(store)).jobs(unfinished)
    except SlurmSilent as error:
        silent = str(error)
    states = {}
    for name in labels:
        if name in results:
            states[name] = State("done", f"{results[name]['score']:.3f}")
        elif name in held:
            states[name] = State("running", _percent(held[name]))
        elif name in failures:
            states[name] = State("failed", "failed", failures[name])
        elif stopped := _stopped(jobs.get(name, [])):
            states[name] = State("failed", "failed", stopped)
        else:
            states[name] = State("pending", "-")
    queued = any(job.live for some in jobs.values() for job in some)
    unknown = bool(silent) and slurm.is_here()  # a controller that restarts
    awaited = bool(held) or queued or unknown or _awaited(store, set(unfinished))
    beats = list({beat["worker"]: beat for beat in held.values()}.values())
    return Status(states, beats, awaited, jobs, silent)


def show(store: Store, name: str, labels: Labels, watch: bool) -> Status:
    """Print the status, and return it; with `watch`, until nothing more will happen, or Ctrl-C."""
    shown = ""
    submissions = Submissions(store)
    seen = time.monotonic()  # when a worker was last seen
    status: Status | None = None
    try:
        while True:
            labels = submissions.current(labels)
            status = read_status(store, labels, submissions)
            text = render(name, labels, status)
            if text != shown:
                print((CLEAR if watch and sys.stdout.isatty() else "") + text, flush=True)
            shown = text
            now = time.monotonic()
            seen = now if status.awaited else seen
            if not watch:
                print(_in_no_queue(status), end="")
                return status
            if status.ended or now - seen > IDLE_S:
                print(_what_to_do(status), end="")
                return status
            time.sleep(POLITE_S if status.jobs or status.silent else REFRESH_S)
    except KeyboardInterrupt:
        if not watch or status is None:
            raise
        print("\nNo longer watched: what runs goes on.")
        return status


def render(name: str, labels: Labels, status: Status) -> str:
    """The status as text: counts, the grid, the workers, the failures."""
    counts = Counter(state.word for state in status.states.values())
    words = [f"{counts[word]} {word}" for word in ("done", "running", "failed", "pending") if counts[word]]
    lines = [f"{name}: {len(labels)} cells: {', '.join(words)}"]
    lines += _grid(labels, status.states)
    lines += [_worker(beat) for beat in status.workers]
    lines += slurm_lines(job for jobs in status.jobs.values() for job in jobs)
    lines += [f"SLURM does not answer: {status.silent}"] if status.silent else []
    failures = {name: state.reason for name, state in status.states.items() if state.word == "failed"}
    return "\n".join(lines + failure_lines(failures, labels))


def failure_lines(failures: dict[str, str], labels: Labels) -> list[str]:
    """One line per reason: how many cells, and which was the first."""
    by_reason: dict[str, list[str]] = {}
    for fingerprint, reason in failures.items():
        by_reason.setdefault(reason, []).append(fingerprint)
    lines = [
        f"failed: {reason} (in {len(names)} cells, first: {name_of(labels[names[0]])})"
        for reason, names in list(by_reason.items())[:REASONS]
    ]
    more = len(by_reason) - REASONS
    return [*lines, f"failed: {more} more reasons"] if more > 0 else lines


def after_failure(failed: int, cells: int) -> str:
    """How many cells failed, and what to do."""
    return f"{failed} of {cells} cells failed. `{program()} retry` runs them again."


def name_of(label: dict[str, Any]) -> str:
    """A cell's label on one line."""
    return " ".join(f"{key}={value}" for key, value in label.items() if value is not None)


def _stopped(jobs: list[Submitted]) -> str:
    """Why a cell will not come although it was submitted; '' where it may."""
    broken = [job for job in jobs if job.broken]
    if not broken or any(job.live for job in jobs):
        return ""
    first = [job for job in broken if job.search] or broken  # the others were cancelled with it
    what = "the head search in front of it" if first[0].search else "its SLURM job"
    return f"{what} is {' and '.join(sorted({job.state.lower() for job in first}))}"


def _awaited(store: Store, unfinished: set[str]) -> bool:
    """Whether a live worker belongs to a sweep that has any of these cells: it may only be starting."""
    if not unfinished:
        return False
    for sweep in {beat["job"].rpartition("/")[0] for beat in workers(store).values() if alive(beat)} - {""}:
        for path in (store.sweeps / sweep / "jobs").glob("*.json"):
            job = read_json(path) or {}
            if any(entry["fingerprint"] in unfinished for entry in job.get("cells", [])):
                return True
    return False


def _in_no_queue(status: Status) -> str:
    """What to do about cells that were submitted, have no result, and that nothing will run."""
    left = [
        name
        for name, jobs in status.jobs.items()
        if status.states[name].word == "pending" and not any(job.live for job in jobs)
    ]
    if not left:
        return ""
    return f"{count(len(left), 'cell')} in no queue: `{program()} retry all` submits what has no result.\n"


def _what_to_do(status: Status) -> str:
    counts = Counter(state.word for state in status.states.values())
    left = ", ".join(f"{counts[word]} {word}" for word in ("failed", "pending") if counts[word])
    if not left:
        return ""
    again = "Run the sweep's command again: it goes on where it stopped"
    queued = ", and a job that still waits in a queue starts by itself" if counts["pending"] else ""
    return f"No worker runs: {left}. {again}{queued}.\n"


def program() -> str:
    """How this program is called in a command that works when pasted."""
    called = Path(sys.argv[0])
    if shutil.which("sparsemm"):
        return "sparsemm"
    if called.suffix == ".py":  # python -m sparsemm.cli
        return f"{quote(sys.executable)} -m sparsemm.cli"
    absolute = called.absolute()
    return quote(str(absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute))


def _grid(labels: Labels, states: dict[str, State]) -> list[str]:
    budgets = list(dict.fromkeys(label["budget"] for label in labels.values()))
    keys = [key for key in next(iter(labels.values()), {}) if key != "budget"]
    by_method: dict[tuple[Any, ...], set[Any]] = {}
    for label in labels.values():
        for key in keys:
            by_method.setdefault((key, label["model"], label["task"], label["method"]), set()).add(label[key])
    several = {key for (key, *_), values in by_method.items() if len(values) > 1}
    first = [key for key in ("model", "task") if len({label[key] for label in labels.values()}) > 1]
    rows: dict[str, dict[Any, str]] = {}
    for fingerprint, label in labels.items():
        words = [str(label[key]) for key in (*first, "method")]
        words += [f"{key}={label[key]}" for key in keys if key in several and label[key] is not None]
        rows.setdefault(" ".join(words), {})[label["budget"]] = states[fingerprint].mark
    heads = ["full" if budget is None else str(budget) for budget in budgets]
    widths = [max(len(head), 6) for head in heads]
    left = max((len(row) for row in rows), default=0)
    lines = [_line("budget", left, heads, widths)]
    lines += [
        _line(row, left, [marks.get(b, "") for b in budgets], widths)
        for row, marks in list(rows.items())[:ROWS]
    ]
    if len(rows) > ROWS:
        lines.append(
            f"... and {len(rows) - ROWS} more rows; name fewer with overrides, such as method=sparsemm"
        )
    return lines


def _line(row: str, left: int, marks: list[str], widths: list[int]) -> str:
    cells = "  ".join(mark.rjust(width) for mark, width in zip(marks, widths, strict=True))
    return f"  {row.ljust(left)}  {cells}".rstrip()


def _worker(beat: dict[str, Any]) -> str:
    rate = beat.get("rate_per_s")
    left = duration((beat["total"] - beat["done"]) / rate) if rate else "unknown"
    speed = f", {rate:.1f}/s" if rate else ""
    return f"worker {beat['worker']}: {beat['done']} of {beat['total']} samples{speed}, time left: {left}"


def _percent(beat: dict[str, Any]) -> str:
    return f"{100 * beat['done'] // beat['total']}%" if beat["total"] else "0%"
