"""The verbs that act on what was submitted: cancel, and retry."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sparsemm.paths import resolve
from sparsemm.results.files import StorageError, read_json
from sparsemm.results.store import Store
from sparsemm.sweep import slurm
from sparsemm.sweep.cells import Cell
from sparsemm.sweep.errors import UnusableConfiguration
from sparsemm.sweep.head_files import head_files
from sparsemm.sweep.jobs import JOB_FIELDS
from sparsemm.sweep.plan import count
from sparsemm.sweep.search import Search
from sparsemm.sweep.status import Labels, read_status
from sparsemm.sweep.submitted import Submissions, Submitted, has_own, note_cancelled


def cancel(store: Store, labels: Labels) -> str:
    """Cancel the SLURM jobs that wait or run and have any of these cells.

    Returns:
        What was done, in words.

    Raises:
        UnusableConfiguration: there is no SLURM here, or it does not answer.
    """
    if not slurm.is_here():
        raise UnusableConfiguration(
            "cancel: there is no squeue on this machine's PATH. Run this on a login node; a sweep that runs "
            "in a terminal ends with Ctrl-C."
        )
    done, submissions = store.finished(labels), Submissions(store)
    try:
        found = submissions.jobs([name for name in labels if name not in done])
        live = {job.id: job for jobs in found.values() for job in jobs if job.live}
        kept = {
            name: waiting for name, job in live.items() if (waiting := _waiting(submissions, job, labels))
        }
        jobs = {name: job for name, job in live.items() if name not in kept}
        slurm.cancel(list(jobs))
        with suppress(StorageError):  # who may cancel another's jobs may not write to their store
            note_cancelled(jobs.values())
    except slurm.SlurmSilent as error:
        raise UnusableConfiguration(f"cancel: SLURM does not answer: {error}") from error
    for_others = set[str]().union(*kept.values())
    stays = f"The head search {_ids(kept)} goes on: {count(len(for_others), 'other cell')} behind it."
    if not jobs:
        nothing = "Nothing to cancel: no SLURM job waits for these cells or runs them."
        return f"{nothing} {stays}" if kept else nothing
    others = {cell for job in jobs.values() for cell in job.job.cells if not job.search} - labels.keys()
    more = f", and {count(len(others), 'other cell')} with them" if others else ""
    done_now = f"cancelled {count(len(jobs), 'SLURM job')}: {_ids(jobs)}{more}"
    return f"{done_now}. {stays}" if kept else done_now


def _waiting(submissions: Submissions, job: Submitted, labels: Labels) -> set[str]:
    """The other cells for which a head search must go on: their own jobs wait for it."""
    others = submissions.cells_behind(job) - labels.keys() if job.search else set[str]()
    return {cell for cell, jobs in submissions.jobs(others).items() if has_own(jobs)}


def _ids(jobs: Iterable[str]) -> str:
    """Ids of jobs as text, where an array of which there are several is named once."""
    names = list(jobs)
    arrays = Counter(name.partition("_")[0] for name in names)
    ids = (name if arrays[name.partition("_")[0]] == 1 else name.partition("_")[0] for name in names)
    return " ".join(dict.fromkeys(ids))


def to_retry(store: Store, labels: Labels, everything: bool) -> tuple[list[str], str]:
    """The cells to run again: those that failed, or all without a result; none that waits or runs.

    A cell whose own job has gone failed, though the head search in front of it lives.

    Returns:
        The cells, and in words what the others without a result do.

    Raises:
        UnusableConfiguration: SLURM does not answer, so that nobody knows what its queue has.
    """
    status = read_status(store, labels)
    if status.silent and slurm.is_here():
        raise UnusableConfiguration(f"retry: SLURM does not answer: {status.silent}. Try again later.")
    words = ("failed", "pending") if everything else ("failed",)
    waiting = {cell for cell, jobs in status.jobs.items() if has_own(jobs)}
    left = {cell for cell, jobs in status.jobs.items() if any(job.live for job in jobs)}
    words_of = {name: state.word for name, state in status.states.items() if name not in waiting}
    chosen = [
        name for name, word in words_of.items() if word in words or (word == "pending" and name in left)
    ]
    others = Counter(status.states[name].word for name in labels if name not in chosen)
    return chosen, ", ".join(f"{others[word]} {word}" for word in ("running", "pending") if others[word])


def cells_of(store: Store, fingerprints: Collection[str]) -> list[Cell]:
    """Cells as they were asked for, from the newest job files that have them.

    Raises:
        UnusableConfiguration: a cell that no job file has.
    """
    wanted, found = set(fingerprints), dict[str, Cell]()
    for file in _newest(store):
        for entry in (read_json(file) or {}).get("cells", []):
            if entry["fingerprint"] in wanted - found.keys():
                found[entry["fingerprint"]] = _cell(entry)
        if len(found) == len(wanted):
            break
    if missing := wanted - found.keys():
        raise UnusableConfiguration(
            f"retry: {count(len(missing), 'cell')} were never in a job. Run the sweep's command again."
        )
    return [found[name] for name in fingerprints]


def searches_of(store: Store, cells: Sequence[Cell]) -> list[Search]:
    """The newest head searches for the scores that cells wait for, as they were submitted."""
    missing = {file for cell in cells for file in head_files(cell.settings) if not resolve(file).is_file()}
    found = dict[str, Search]()
    for file in _newest(store) if missing else ():
        asked = (read_json(file) or {}).get("search")
        if asked and asked["out"] in missing - found.keys():
            found[asked["out"]] = Search(**{**asked, "shard": (0, 1)})
    return list(found.values())


def _newest(store: Store) -> Iterable[Path]:
    sweeps: Sequence[Path] = sorted(
        store.sweeps.glob("*/sweep.json"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    for sweep in sweeps:
        yield from (sweep.parent / "jobs").glob("*.json")


def _cell(entry: dict[str, Any]) -> Cell:
    return Cell(**{name: entry[name] for name in JOB_FIELDS if name in entry})
