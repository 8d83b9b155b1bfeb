"""The worker: runs the cells of one job, which share a model and a task, from one prefill per prompt."""

import itertools
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from sparsemm.config import build_mask, build_method, build_model, build_task
from sparsemm.engine.generate import Engine, Generation
from sparsemm.methods.base import Method
from sparsemm.models.base import LoadedModel, Prompt
from sparsemm.results.files import StorageError, read_json
from sparsemm.results.leases import STALE_S, Heartbeat, Leases, current, new_worker_id
from sparsemm.results.store import Store
from sparsemm.sweep.answering import Answering, RunningCell, encode
from sparsemm.sweep.device import find_device as find_device
from sparsemm.sweep.head_files import head_files
from sparsemm.sweep.leakage import Leakage, notes
from sparsemm.sweep.progress import progress
from sparsemm.sweep.records import (
    Clock,
    Record,
    answered,
    cell_result,
    device_name,
    fail_open_cells,
    group_record,
    provenance,
    read_sample,
    reset_peak_memory,
    source,
    unanswered,
)
from sparsemm.sweep.staleness import current_cells
from sparsemm.tasks.base import Sample, Task

WRITERS = 16  # threads that force files to the disk side by side
POLL_S = 2.0  # between looks at cells that another worker runs


def run_job(
    job_file: Path, stale_s: float = STALE_S, stop: Callable[[], bool] = lambda: False, job_id: str = ""
) -> int:
    """Run the cells of a job file that have no result, and wait for those that other workers run.

    Args:
        job_file: what to run.
        stale_s: silence after which another worker's cells are taken over.
        stop: asked at every sample boundary; where it says so, this worker saves and returns.
        job_id: of a cluster, for those who look.

    Returns:
        The number of cells that failed.

    Raises:
        StorageError: the store cannot be written; nothing that was written is lost.
        ValueError: what was asked for is not there (a device, a model).
    """
    job = read_json(job_file)
    if job is None:
        raise ValueError(f"job_file={job_file}: missing or torn. Run the sweep's command again.")
    store, worker = Store(Path(job["store"])), new_worker_id()
    shard, shards = job["shard"]
    leases = Leases(store, worker, stale_s, part=f"shard-{shard}-of-{shards}" if shards > 1 else "")
    name = f"{job['sweep']}/{job['job']}"
    beat = Heartbeat(store, worker, job=name, job_id=job_id, every_s=min(10.0, stale_s / 6))
    failed, ended = set[str](), set[str]()  # ended: this shard of the cell is answered, others may not be
    waiting_for: str | None = None
    with beat, ThreadPoolExecutor(WRITERS) as pool:
        while not stop() and (
            missing := [
                entry
                for entry in job["cells"]
                if entry["fingerprint"] not in failed | ended
                and store.cell(entry["fingerprint"]).result() is None
            ]
        ):
            won = list(pool.map(lambda entry: leases.acquire(entry["fingerprint"]), missing))
            mine = [entry for entry, got in zip(missing, won, strict=True) if got]
            if mine:
                names = [entry["fingerprint"] for entry in mine]
                mine = current_cells(store, mine, leases.part)
                try:
                    if mine:
                        ended |= _Group(store, leases, beat, pool, mine, job, stop).run()
                except StorageError:
                    raise
                except Exception as error:  # nothing can be answered: the reason belongs to every cell
                    if not isinstance(error, ValueError | OSError):
                        traceback.print_exc()
                    fail_open_cells(store, mine, error, leases.part)
                failed |= {name for name in names if store.cell(name).failure(leases.part) is not None}
                continue
            other = current(leases.folder(missing[0]["fingerprint"]))
            if other and other.worker != waiting_for:
                waiting_for = other.worker
                print(
                    f"{len(missing)} cells are run by {waiting_for or '?'}; waiting for them.",
                    file=sys.stderr,
                )
            beat.update(state="waiting")
            time.sleep(min(POLL_S, stale_s / 4))
        leases.release_all()
    return len(failed)


class _Group:
    """The cells that this worker holds: from the model in memory to their results."""

    def __init__(
        self,
        store: Store,
        leases: Leases,
        beat: Heartbeat,
        pool: ThreadPoolExecutor,
        entries: Sequence[dict[str, Any]],
        job: dict[str, Any],
        stop: Callable[[], bool],
    ):
        self.store, self.leases, self.beat, self.pool, self.job = store, leases, beat, pool, job
        self.stop = stop
        settings = entries[0]["settings"]
        engine = settings["engine"]
        self.batch, self.dtype = int(engine["batch_prompts"]), str(settings["model"]["dtype"])
        self.fixed_rows = None if self.dtype == "float32" else int(engine["rows"])
        self.computed = {"backend": str(engine["cache_backend"]), "decode": str(engine["decode"])}
        self.resolved: str | None = None  # what `auto` led to, once there is a model
        if engine["threads"]:
            torch.set_num_threads(engine["threads"])
        self.device = find_device(engine["device"])
        self.task: Task = build_task(settings)
        self.ids = [self.task.ids(index)[0] for index in range(len(self.task))]
        shard, shards = job["shard"]
        self.mine = range(shard, len(self.ids), shards)  # indexes of the samples of this job
        self.adapter, self.mask = build_model(settings), build_mask(settings)
        self.limit = self.task.answer_tokens or self.adapter.max_new_tokens
        if self.fixed_rows:  # more prompts would be decoded one after the other, and their caches be held
            self.batch = min(self.batch, max(1, self.fixed_rows // len(entries)))
        self.cells = list(pool.map(self._take, entries))
        self.clock = Clock(cells=len(entries))
        self.pending: list[Future[None]] = []

    def _take(self, entry: dict[str, Any]) -> RunningCell:
        folder = self.store.cell(entry["fingerprint"])
        folder.clear_failure(self.leases.part)
        folder.write_config(entry["settings"])
        found = folder.samples()  # what failed is tried again: an image may be there now
        if found.torn or found.unreadable:
            lines = f"{found.torn} torn and {found.unreadable} unreadable lines"
            print(f"{folder.path}: {lines} left out; their samples are answered again.", file=sys.stderr)
        done = {name for name, record in found.records.items() if record["error"] is None}
        return RunningCell(entry, build_method(entry["settings"]), folder, done)

    def run(self) -> set[str]:
        """Answer what is missing, then publish the results that are complete.

        Returns:
            The cells of which this job's samples are answered.
        """
        ids, total = self.ids, len(self.mine)
        todo = [index for index in self.mine if any(ids[index] not in cell.done for cell in self.cells)]
        self.beat.update(state="running", done=total - len(todo), total=total, rate_per_s=None)
        self.beat.beat()
        if todo and self._refuse_leaking(todo):
            loaded = self.adapter.load(self.device)
            stops = self.task.stop_strings if self.adapter.stop_strings else ()
            self.answering = Answering(lambda methods: self._engine(loaded, methods, stops), self._fail)
            reset_peak_memory(self.device)
            with progress(total, total - len(todo), f"{len(self.cells)} cells") as bar:
                for batch in _batches(todo, self.batch):
                    if self.stop():
                        break
                    began = time.monotonic()
                    self._batch(loaded, [read_sample(self.task, index) for index in batch], batch)
                    self.clock.wall_s += time.monotonic() - began
                    self.clock.samples += len(batch)
                    bar.update(len(batch))
                    self.beat.update(done=int(bar.n), rate_per_s=self.clock.samples / self.clock.wall_s)
                    if not any(cell.open for cell in self.cells):
                        break
        self._settle()
        list(self.pool.map(self._finish, [cell for cell in self.cells if cell.open]))
        for cell in self.cells:
            if cell.attempt:
                cell.attempt.close()
        return {cell.entry["fingerprint"] for cell in self.cells if cell.open}

    def _refuse_leaking(self, todo: Sequence[int]) -> bool:
        """Fail the cells whose head scores were found on images that are asked about; False: all of them."""
        leakage = Leakage(self.task, todo)
        for path in sorted({path for cell in self.cells for path in head_files(cell.entry["settings"])}):
            for line in notes(path, self.task):
                print(line, file=sys.stderr)
        for cell in self.cells:
            if reason := leakage.reason(cell.entry["settings"]):
                self._fail(cell, reason)
        return any(cell.open for cell in self.cells)

    def _engine(self, loaded: LoadedModel, methods: Sequence[Method], stops: Sequence[str]) -> Engine:
        engine = Engine(loaded, methods, self.limit, self.fixed_rows, stops, self.mask, **self.computed)
        self.resolved = engine.resolved
        return engine

    def _batch(self, loaded: LoadedModel, samples: Sequence[Sample], indexes: Sequence[int]) -> None:
        """Answer a batch; cells that lack the same samples of it are answered together."""
        lacking: dict[tuple[int, ...], list[RunningCell]] = {}
        for cell in self.cells:
            places = tuple(place for place, sample in enumerate(samples) if sample.id not in cell.done)
            if cell.open and places:
                lacking.setdefault(places, []).append(cell)
        wanted = {place for places in lacking for place in places}
        prompts = {place: encode(loaded, samples[place], self.limit) for place in sorted(wanted)}
        for places, cells in lacking.items():
            good: dict[int, Prompt] = {}
            bad: dict[int, str] = {}
            for place in places:
                prompt = prompts[place]
                if isinstance(prompt, Prompt):
                    good[place] = prompt
                else:
                    bad[place] = prompt
            unread = [(cells, bad)] if bad else []
            for some, found in itertools.chain(unread, self.answering.answers(good, cells)):
                for column, cell in enumerate(some):
                    mine = {
                        place: one if isinstance(one, str) else one[column] for place, one in found.items()
                    }
                    rows = [one.rows for one in mine.values() if isinstance(one, Generation)]
                    records = [
                        self._record(loaded, samples[place], indexes[place], one)
                        for place, one in mine.items()
                    ]
                    self._append(cell, records, max(rows, default=0))
        self._settle()

    def _record(self, loaded: LoadedModel, sample: Sample, index: int, answer: Generation | str) -> Record:
        if isinstance(answer, str):
            return unanswered(sample, index, answer)
        return answered(loaded, self.task, sample, index, answer)

    def _fail(self, cell: RunningCell, reason: str) -> None:
        cell.open = False
        cell.folder.write_failure(reason, self.leases.part)
        self.leases.release(cell.entry["fingerprint"])

    def _append(self, cell: RunningCell, records: list[Record], rows: int) -> None:
        """Write a batch's records in the background; a cell that another worker took over is left to it."""
        cell.rows = max(cell.rows, rows)
        cell.done.update(record["sample"] for record in records)
        self.pending.append(self.pool.submit(self._write, cell, records))

    def _write(self, cell: RunningCell, records: list[Record]) -> None:
        with cell.writing:
            if not self.leases.still_mine(cell.entry["fingerprint"]):
                cell.open = False
                return
            if cell.attempt is None:
                cell.attempt = cell.folder.begin_attempt(self.leases.worker, device_name(self.device))
            cell.attempt.append(records)

    def _settle(self) -> None:
        """Wait until everything handed over is on the disk."""
        pending, self.pending = self.pending, []
        for future in pending:
            future.result()

    def _finish(self, cell: RunningCell) -> None:
        """Publish a cell's result once every sample has a record."""
        merged = cell.folder.samples()
        if any(name not in merged.records for name in self.ids):
            return
        records = [merged.records[name] for name in self.ids]
        if all(record["error"] is not None for record in records):
            cell.folder.write_failure(f"every sample failed; first: {records[0]['error']}")
        else:
            git = self.job.get("git") or {}
            cell.folder.write_result(
                cell_result(
                    cell.entry,
                    self.task,
                    records,
                    group_record(self.clock, self.device, cell.rows),
                    provenance(self.clock, merged.devices, self.dtype, git, merged.attempts)
                    | source(self.adapter)
                    | {"decode": self.computed["decode"], "cache_backend": self.resolved},
                )
            )
        self.leases.release(cell.entry["fingerprint"])


def _batches(items: Sequence[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
