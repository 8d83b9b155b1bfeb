"""Jobs: what one worker runs, as immutable files; and the function that every Hydra launcher calls."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from sparsemm.results.files import create_exclusively, read_json, storage_error, write_atomically
from sparsemm.results.store import Store
from sparsemm.sweep.awaiting import SUFFIX, NothingUsable, ready, renamed
from sparsemm.sweep.cells import Cell, CellMaker
from sparsemm.sweep.code import changes, git_diff, git_state
from sparsemm.sweep.compose import plain_settings
from sparsemm.sweep.digests import canonical, digest
from sparsemm.sweep.errors import CellsFailed, UnusableConfiguration
from sparsemm.sweep.head_files import head_files
from sparsemm.sweep.prerequisites import require
from sparsemm.sweep.search import Search

NOT_A_GRID = (
    "output",
    "watch",
    "shards",
    "find_heads",
    "data",
    "samples",
    "out",
    "import_file",
    "tracking",
)  # keys that choose no cells
LATE_S = 60.0  # until a file that another node wrote shows on a disk that they share
JOB_FIELDS = (
    "fingerprint",
    "settings",
    "identity",
    "group",
    "label",
)  # of a cell, in a job file


@dataclass(frozen=True)
class SweepRecord:
    """sweep.json: what was asked for."""

    id: str
    name: str  # of its report
    overrides: list[str]
    experiment: str | None
    cells: list[dict[str, Any]]  # fingerprint and label of each
    git: dict[str, Any]
    created: float

    @classmethod
    def of(cls, content: dict[str, Any] | None) -> "SweepRecord | None":
        """A file's content; keys that a newer version added are ignored, and a file without ours is none."""
        names = [field.name for field in fields(cls)]
        if content is None or not content.keys() >= set(names):
            return None
        return cls(**{name: content[name] for name in names})


def group_into_jobs(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Cells that share a prefill and everything a worker sets up once."""
    jobs: dict[str, list[Cell]] = {}
    for cell in cells:
        shared = {name: cell.settings[name] for name in ("model", "mask", "task", "engine")}
        jobs.setdefault(cell.group + canonical(shared), []).append(cell)
    return list(jobs.values())


def write_jobs(
    store: Store,
    sweep: SweepRecord,
    jobs: Sequence[Sequence[Cell]],
    shards: int | Sequence[int] = 1,
    searched: Sequence[str] = (),
) -> list[Path]:
    """Write sweep.json, the code's difference to its commit, and one file per job and shard.

    Args:
        store: where to.
        sweep: what was asked for.
        jobs: cells of each.
        shards: in how many parts the samples of every job are split, or of each.
        searched: head-score files that are being searched for; jobs whose cells read one wait for it.

    Raises:
        FileExistsError: another sweep has this id.
    """
    folder = store.sweeps / sweep.id
    _create(folder / "sweep.json", asdict(sweep))
    if sweep.git.get("diff"):
        write_atomically(folder / "code.diff", git_diff())
    split = [shards] * len(jobs) if isinstance(shards, int) else shards
    parts = [
        (cells, (shard, number)) for cells, number in zip(jobs, split, strict=True) for shard in range(number)
    ]
    return [
        write_job(store, sweep.id, number, cells, sweep.git, shard, _reads(cells, searched))
        for number, (cells, shard) in enumerate(parts)
    ]


def write_job(
    store: Store,
    sweep: str,
    number: int,
    cells: Sequence[Cell],
    git: dict[str, Any],
    shard: tuple[int, int] = (0, 1),
    awaits: Sequence[str] = (),
) -> Path:
    """Write one job file, which is never changed.

    Args:
        store: where to.
        sweep: its id.
        number: of the job.
        cells: what it runs.
        git: the code that it is submitted with.
        shard: which of how many parts of the samples.
        awaits: head-score files that are not there yet.

    Raises:
        FileExistsError: the sweep has this job.
    """
    path = store.sweeps / sweep / "jobs" / f"{number}{SUFFIX if awaits else '.json'}"
    entries = [{name: getattr(cell, name) for name in JOB_FIELDS} for cell in cells]
    job = {
        "sweep": sweep,
        "job": number,
        "shard": shard,
        "store": str(store.root),
        "cells": entries,
        "git": git,
        **({"awaits": list(awaits)} if awaits else {}),
    }
    _create(path, job)
    return path


def write_searches(
    store: Store, sweep: str, searches: Sequence[Search], git: dict[str, Any], cells: Sequence[Cell] = ()
) -> list[Path]:
    """Write the job files of (parts of) head searches; `cells`: that may wait for them."""
    written = []
    for number, search in enumerate(searches):
        path = store.sweeps / sweep / "jobs" / f"search-{number}.json"
        waiting = [cell.fingerprint for cell in cells if _reads([cell], [search.out])]
        job = {"sweep": sweep, "job": f"search-{number}", "search": asdict(search), "git": git}
        _create(path, {**job, "awaited_by": waiting})
        written.append(path)
    return written


def _reads(cells: Sequence[Cell], files: Sequence[str]) -> list[str]:
    """Those of some head-score files that the cells read."""
    return sorted({file for cell in cells for file in head_files(cell.settings)} & set(files))


def last_sweep(store: Store) -> SweepRecord | None:
    """The sweep that was started last."""
    found = (SweepRecord.of(read_json(path)) for path in store.sweeps.glob("*/sweep.json"))
    last = max(filter(None, found), key=lambda record: record.created, default=None)
    return last and replace(last, cells=renamed(store.sweeps / last.id, last.cells))


def labels_of(store: Store, experiment: str) -> dict[str, dict[str, Any]]:
    """Every cell that a sweep of this experiment had, by fingerprint; of several labels the newest."""
    found = (SweepRecord.of(read_json(path)) for path in store.sweeps.glob("*/sweep.json"))
    records = [record for record in found if record and record.experiment == experiment]
    return {
        entry["fingerprint"]: entry["label"]
        for record in sorted(records, key=lambda record: record.created)
        for entry in renamed(store.sweeps / record.id, record.cells)
    }


def run_composed(config: DictConfig) -> int:
    """What a launcher runs: a job file of our sweeper, or the one cell of an ordinary configuration.

    Returns the number of failed cells of a job file.

    Raises:
        UnusableConfiguration: an ordinary configuration that no run could use.
        CellsFailed: its one cell failed.
    """
    if config.job_file is not None:
        return run_file(Path(config.job_file))
    try:
        cell = CellMaker().cell(plain_settings(config))
    except ValueError as error:
        raise UnusableConfiguration(str(error)) from error
    require([cell])
    store = Store(Path(config.output))
    if store.cell(cell.fingerprint).result() is not None:
        print(f"{cell.fingerprint}: finished already")
        return 0
    from sparsemm.sweep.worker import run_job

    hydra = HydraConfig.get()
    number = OmegaConf.select(hydra, "job.num", throw_on_missing=False) or 0
    if run_job(write_job(store, Path(hydra.sweep.dir).name, number, [cell], git_state())):
        raise CellsFailed(f"{cell.fingerprint}: failed: {store.cell(cell.fingerprint).failure()}")
    return 0


def run_file(path: Path, stop: Callable[[], bool] = lambda: False, job_id: str = "") -> int:
    """Run a job file, or until `stop` says so at a sample boundary; returns the number of failed cells."""
    from sparsemm.sweep.worker import run_job

    job = read_json(path) or {}
    unusable = 0
    if job.get("awaits"):
        path, unusable = _known_cells(path, job)
    if changed := changes(job.get("git") or {}, git_state()):
        print(f"{path}: the code changed since submission: {changed}.", file=sys.stderr)
    if "search" not in job:
        return run_job(path, stop=stop, job_id=job_id) + unusable
    Search(**job["search"]).run(job["git"], stop)
    return 0


def _known_cells(path: Path, job: dict[str, Any]) -> tuple[Path, int]:
    """The job file of cells whose head search has ended, and how many cannot use its scores: those fail."""
    deadline = time.monotonic() + LATE_S
    store = Store(Path(job["store"]))
    try:
        while (file := ready(path)) is None:
            if time.monotonic() > deadline:
                late = f"{', '.join(job['awaits'])}: not there, though the head search has ended. "
                raise NothingUsable(
                    {entry["fingerprint"]: f"{late}Run the sweep's command again." for entry in job["cells"]}
                )
            time.sleep(1)
    except NothingUsable as error:
        _fail(store, error.reasons)
        raise
    reasons = {one["fingerprint"]: one["reason"] for one in (read_json(file) or {}).get("unusable", [])}
    _fail(store, reasons)
    return file, len(reasons)


def _fail(store: Store, reasons: Mapping[str, str]) -> None:
    for name, reason in reasons.items():
        store.cell(name).write_failure(reason)


def is_search(path: Path) -> bool:
    """Whether a job file is a part of a head search."""
    return "search" in (read_json(path) or {})


def is_grid(override: str) -> bool:
    """Whether the override can change which cells there are, or what they are."""
    key = override.partition("=")[0].lstrip("+~")
    return key not in NOT_A_GRID and not key.startswith(("hydra.", "hydra/", "tracking."))


def report_name(experiment: str | None, overrides: Sequence[str], own_grid: Mapping[str, Any]) -> str:
    """The experiment or 'sweep', and 6 hex digits of what else was asked for, in whatever order.

    `own_grid` is what the experiment itself sweeps; `overrides` may repeat it.
    """
    asked = {text.partition("=")[0]: text for text in overrides}  # of equal keys the last counts
    known = {f"{key}={value}" for key, value in own_grid.items()}
    known |= {f"{prefix}experiment={experiment}" for prefix in ("", "+", "++")}
    others = sorted(text for text in asked.values() if is_grid(text) and text not in known)
    name = (experiment or "sweep").replace("/", "-")
    return f"{name}-{digest(others)[:6]}" if others else name


def quoted(text: str) -> str:
    """A value of Hydra's override grammar that stands for exactly this text."""
    escaped = text.replace("\\'", "\\\\'").replace("'", "\\'")
    return f"'{escaped}'"


def sweep_id(name: str, suffix: str) -> str:
    """A folder name that says what and when; the random suffix keeps two sweeps of one second apart."""
    stamp = datetime.fromtimestamp(time.time(), UTC).astimezone().strftime("%Y%m%d-%H%M%S")
    return f"{name}-{stamp}-{suffix}"


def _create(path: Path, content: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(path, error) from error
    if not create_exclusively(path, json.dumps(content, ensure_ascii=False).encode()):
        raise FileExistsError(f"{path}: exists, and a job file is never changed. Run the command again.")
