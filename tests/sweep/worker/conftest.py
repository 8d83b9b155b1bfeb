"""Real workers, as processes that can be killed, on the random model and tiny pages."""

import json
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsemm.results.store import Store
from sparsemm.sweep.grid import make_grid
from sparsemm.sweep.jobs import group_into_jobs, write_job

SETTINGS = [
    "method.window=4", "engine.device=cpu", "engine.threads=1", "engine.batch_prompts=2", "engine.rows=6",
    "task.limit=8", "task.page.width=96", "task.page.height=48",
    "task.page.font_size=[12,14]", "task.page.entries=[2,2]",
]  # fmt: skip
GRID = ["method=full,snapkv,sparsemm,adakv", "budget=8,12"]
SAMPLES = 16
VOLATILE = ("group", "provenance")  # of result.json: what a run took and where it ran


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """engine.threads holds for the process: give it back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model(random_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The overrides that choose the random model, with head scores drawn at random."""
    scores = torch.rand(2, 8, generator=torch.Generator().manual_seed(1)).tolist()
    heads = tmp_path_factory.mktemp("heads") / "heads.json"
    heads.write_text(json.dumps({"format": 1, "scores": scores}))
    return [f"model.path={random_model_folder}", f"model.head_scores={heads}"]


@pytest.fixture
def make_job(make_composer: Any, model: list[str]) -> Callable[..., Path]:
    """Write the job file of a grid (one job) into a store; later overrides win."""

    def make(root: Path, *arguments: str) -> Path:
        cells = make_grid(make_composer(), [*model, *SETTINGS, *GRID, *arguments]).cells
        (job,) = group_into_jobs(cells)
        return write_job(Store(root), f"sweep{len(list(root.glob('sweeps/*')))}", 0, job, {})

    return make


WORK = """
import os, sys, time
from sparsemm.sweep.worker import run_job
os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
def lines():
    return sum(path.read_bytes().count(b"\\n") for path in root.glob("cells/*/*/samples-*.jsonl"))
def stop():
    while pause_at is not None and hold.exists() and lines() >= pause_at:
        time.sleep(0.005)
    return False
sys.exit(run_job(job_file, stale_s, stop))
"""
PATIENCE_S = 300.0  # for what is a matter of seconds on a machine that does nothing else


class Worker:
    """One worker process; its imports are done before it starts, so that moments mean something.

    It pauses at the sample boundary at which the store has `pause_at` lines, until it may go on: however
    late a test looks, the work is not over.
    """

    context = multiprocessing.get_context("forkserver")

    def __init__(self, job_file: Path, stale_s: float, log: Path, pause_at: int | None) -> None:
        self.log, self.hold = log, log.with_suffix(".hold")
        self.hold.touch()
        known = {"job_file": job_file, "stale_s": stale_s, "log": log, "hold": self.hold}
        known |= {"pause_at": pause_at, "root": job_file.parents[3]}
        self.process: ForkServerProcess = self.context.Process(
            target=exec, args=(WORK, known)
        )  # source, as the tests cannot be imported in another process
        self.process.start()
        self.pid = self.process.pid

    def wait(self) -> int:
        """Exit code; the number of failed cells where nothing else went wrong."""
        self.process.join(PATIENCE_S)
        assert self.process.exitcode is not None, "the worker did not end\n" + self.log.read_text()
        if self.process.exitcode:
            print(self.log.read_text())  # pytest shows it where the test fails
        return self.process.exitcode

    def said(self) -> str:
        """What it has written to stderr."""
        return self.log.read_text() if self.log.exists() else ""

    def go_on(self) -> None:
        """End its pause, or let it have none."""
        self.hold.unlink()

    def kill(self) -> None:
        """kill -9"""
        self.process.kill()
        self.process.join()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Start a worker on a job file."""
    Worker.context.set_forkserver_preload(["sparsemm.sweep.worker", "sparsemm.models.qwen2_vl"])
    workers: list[Worker] = []

    def begin(job_file: Path, stale_s: float = 60.0, pause_at: int | None = None) -> Worker:
        workers.append(Worker(job_file, stale_s, tmp_path / f"worker{len(workers)}.log", pause_at))
        return workers[-1]

    yield begin
    for worker in workers:
        if worker.process.is_alive():
            worker.kill()


def outcome(root: Path) -> dict[str, Any]:
    """What a store says: fingerprint -> result without what varies, and every sample's record."""
    store = Store(root)
    found = {}
    for result in store.results():
        records = store.cell(result["fingerprint"]).samples().records
        kept = {key: value for key, value in result.items() if key not in VOLATILE}
        found[result["fingerprint"]] = (kept, records)
    return found


def lines(root: Path) -> int:
    """Lines in all samples files now."""
    return sum(path.read_bytes().count(b"\n") for path in root.glob("cells/*/*/samples-*.jsonl"))


@pytest.fixture(scope="session")
def look() -> Callable[[Path], dict[str, Any]]:
    return outcome


@pytest.fixture(scope="session")
def count_lines() -> Callable[[Path], int]:
    return lines


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], object], str], None]:
    """Wait for something."""

    def wait(condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, f"waited in vain for {what}"
            time.sleep(0.002)

    return wait


@pytest.fixture(scope="session")
def _undisturbed() -> dict[str, Path]:
    return {}


@pytest.fixture
def undisturbed(
    _undisturbed: dict[str, Path], make_job: Any, start: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The store of one run that nothing disturbed, by dtype; made once."""

    def get(dtype: str) -> Path:
        if dtype not in _undisturbed:
            root = tmp_path_factory.mktemp(dtype)
            assert start(make_job(root, f"model.dtype={dtype}")).wait() == 0
            _undisturbed[dtype] = root
        return _undisturbed[dtype]

    return get


@pytest.fixture
def copied(undisturbed: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of the undisturbed float32 store, to damage."""
    return Path(shutil.copytree(undisturbed("float32"), tmp_path / "copy"))


@pytest.fixture
def worker_settings() -> list[str]:
    return SETTINGS
