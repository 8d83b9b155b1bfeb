"""From cells and searches to started jobs: their files, and the launcher that takes them."""

import secrets
import time
from collections.abc import Sequence
from typing import Any

from sparsemm.results.store import Store
from sparsemm.sweep.cells import Cell
from sparsemm.sweep.code import git_state
from sparsemm.sweep.errors import UnusableConfiguration
from sparsemm.sweep.jobs import SweepRecord, group_into_jobs, sweep_id, write_jobs, write_searches
from sparsemm.sweep.launching import Launching
from sparsemm.sweep.plan import count
from sparsemm.sweep.search import Search
from sparsemm.sweep.staleness import AGAIN, left_behind
from sparsemm.sweep.status import Subject


def start_cells(
    store: Store,
    launching: Launching,
    cells: Sequence[Cell],
    subject: Subject,
    searches: Sequence[Search] = (),
) -> list[Any]:
    """Start the jobs of cells, of which some wait for the scores that `searches` find.

    Raises:
        UnusableConfiguration: a cell waited for scores that are there now, which gives it another name.
    """
    if stale := left_behind(cells, [search.out for search in searches]):
        raise UnusableConfiguration(
            f"Nothing was started: the head scores of {count(len(stale), 'cell')} came, or went, since they "
            f"were named. {AGAIN}"
        )
    jobs = group_into_jobs(cells)
    record = SweepRecord(
        id=sweep_id(subject.name, secrets.token_hex(2)),
        name=subject.name,
        overrides=list(subject.overrides),
        experiment=subject.experiment,
        cells=[{"fingerprint": name, "label": label} for name, label in subject.labels.items()],
        git=git_state(),
        created=time.time(),
    )
    folder = store.sweeps / record.id
    launcher = launching.prepare(folder) if jobs else None
    sizing = launching.sizing
    files = write_jobs(store, record, jobs, sizing.split(store, jobs), [search.out for search in searches])
    parts = _parts(searches, sizing.rounded(sizing.shards))
    first = write_searches(store, record.id, parts, record.git, cells)
    for cell in cells if launching.submits else ():
        store.cell(cell.fingerprint).clear_failure(None)  # it waits now; its worker says what happens
    return launching.launch(launcher, [*first, *files], folder)


def start_searches(store: Store, launching: Launching, searches: Sequence[Search]) -> list[Any]:
    """Start the jobs of head searches."""
    sweep = sweep_id("heads", secrets.token_hex(2))
    launcher = launching.prepare(store.sweeps / sweep)
    parts = _parts(searches, launching.sizing.rounded(launching.sizing.shards))
    files = write_searches(store, sweep, parts, git_state())
    return launching.launch(launcher, files, store.sweeps / sweep)


def _parts(searches: Sequence[Search], shards: int) -> list[Search]:
    return [part for one in searches for part in one.parts(shards)]
