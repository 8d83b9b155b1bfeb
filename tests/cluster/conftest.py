"""The command line against a real SLURM on this machine."""

import contextlib
import importlib.util
import io
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import torch

from sparsemm import cli
from sparsemm.results.store import Store

SETTINGS = [
    "method.window=4", "engine.device=cpu", "engine.threads=1", "engine.batch_prompts=2", "engine.rows=6",
    "task.limit=48", "task.page.width=96", "task.page.height=48",
    "task.page.font_size=[12,14]", "task.page.entries=[2,2]",
    "method=full,snapkv,sparsemm,adakv", "budget=8,12",
]  # fmt: skip
SLURM = ["hydra/launcher=slurm_cpu", "hydra.launcher.cpus=1", "hydra.launcher.mem_gb=null"]
VOLATILE = ("group", "provenance")  # of result.json: what a run took and where it ran
PATIENCE_S = 240.0  # for what is a matter of seconds on a machine that does nothing else


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "sparsemm_test_cluster", Path(__file__).parent / "cluster.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two nodes of two CPUs."""
    module = _module()
    if reason := module.why_not():
        pytest.skip(reason)
    made = module.Cluster(tmp_path_factory.mktemp("slurm") / "cluster")
    made.start()
    yield made
    made.stop()

    def holding() -> list[str]:
        found = [(words, module._open(pid)) for pid, _, words in module._processes()]
        return [words for words, files in found if any(file.startswith(f"{made.root}/") for file in files)]

    deadline = time.monotonic() + PATIENCE_S
    while left := holding():  # a process that was killed is there for a moment
        assert time.monotonic() < deadline, f"the cluster left processes behind: {left}"
        time.sleep(0.1)


@pytest.fixture(scope="session")
def model(random_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The overrides that choose the random model, with head scores drawn at random."""
    scores = torch.rand(2, 8, generator=torch.Generator().manual_seed(1)).tolist()
    heads = tmp_path_factory.mktemp("heads") / "heads.json"
    heads.write_text(json.dumps({"format": 1, "scores": scores}))
    return [f"model.path={random_model_folder}", f"model.head_scores={heads}", *SETTINGS]


class Lab:
    """One store, and the commands of somebody who works with it."""

    def __init__(self, cluster: Any, grid: list[str], output: Path) -> None:
        self.cluster, self.grid, self.output = cluster, grid, output
        self.slurm = SLURM
        self.store = Store(output)
        self.env = {**os.environ, **cluster.env, "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1"}

    def command(self, *arguments: str) -> list[str]:
        """A command line of ours on this store, for a process of its own."""
        return [sys.executable, "-m", "sparsemm.cli", *self.arguments(*arguments)]

    def arguments(self, *arguments: str) -> list[str]:
        """What comes after the program's name."""
        return [*arguments, f"output={self.output}"]

    def call(self, *arguments: str, code: int | None = 0) -> str:
        """What a command prints; it must end with this exit code (None: with any)."""
        said = io.StringIO()
        argv, env = mock.patch.object(sys, "argv", ["sparsemm"]), mock.patch.dict(os.environ, self.env)
        with env, argv, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            found = cli.run(self.arguments(*arguments))
        assert code in (None, found), f"exit code {found}\n{said.getvalue()}"
        return said.getvalue()

    def submit(self, *arguments: str) -> str:
        """Submit the grid; returns the id of the array."""
        found = re.search(r"^SLURM (\d+): ", self.call("run", *self.grid, *SLURM, *arguments), re.MULTILINE)
        assert found
        return found[1]

    def live(self) -> list[str]:
        """Jobs that wait or run."""
        return self.cluster.ask("squeue", "-h", "-r", "-o", "%i").split()

    def finish(self) -> None:
        """Wait until no job waits or runs."""
        self.until(lambda: not self.live())

    def until(self, true: Callable[[], Any]) -> None:
        """Wait for something."""
        deadline = time.monotonic() + PATIENCE_S
        while not true():
            assert time.monotonic() < deadline, f"waited for {PATIENCE_S} s\n{self.logs()}"
            time.sleep(0.1)

    def logs(self) -> str:
        """The logs of all jobs."""
        return "\n".join(f"== {path}\n{path.read_text()}" for path in self.output.rglob("*_log.out"))

    def freeze(self, workers: int = 1) -> None:
        """Stop the workers where they are, so that tests are no race; scancel lets them go on."""
        beats = self.store.workers
        self.until(lambda: self.lines() > 12 and len(list(beats.glob("*.json"))) >= workers)
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the workers go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, how: signal.Signals) -> None:
        for beat in map(json.loads, (path.read_text() for path in self.store.workers.glob("*.json"))):
            with contextlib.suppress(ProcessLookupError):
                if beat["pid"] != os.getpid():
                    os.kill(beat["pid"], how)

    def used_s(self, job: str) -> int:
        """Seconds that a job has been running; 0 where it does not run."""
        *_, minutes, seconds = [0, 0, *self.cluster.ask("squeue", "-h", "-j", job, "-o", "%M").split(":")]
        return int(minutes) * 60 + int(seconds)

    def lines(self) -> int:
        """Lines in all samples files now."""
        return sum(path.read_bytes().count(b"\n") for path in self.output.glob("cells/*/*/samples-*.jsonl"))

    def outcome(self) -> dict[str, Any]:
        """fingerprint -> result without what varies, and every sample's record."""
        found = {}
        for result in self.store.results():
            kept = {key: value for key, value in result.items() if key not in VOLATILE}
            found[result["fingerprint"]] = (kept, self.store.cell(result["fingerprint"]).samples().records)
        return found

    def table(self) -> str:
        """The table that was written last."""
        tables = self.output.glob("reports/*/table.md")
        return max(tables, key=lambda path: path.stat().st_mtime_ns).read_text()

    def answered_twice(self) -> int:
        """The most samples of a cell that were answered more than once."""
        most = 0
        for cell in self.store.fingerprints():
            names = [
                record["sample"]
                for path in self.store.cell(cell).path.glob("samples-*.jsonl")
                for record in map(json.loads, path.read_text().splitlines())
                if "sample" in record
            ]
            most = max(most, len(names) - len(set(names)))
        return most

    def states(self, job: str) -> set[str]:
        """SLURM's states of a job (of all elements of an array)."""
        return set(self.cluster.ask("squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%T").split())

    def restarts(self, job: str) -> list[int]:
        """How often its elements were requeued."""
        asked = ("squeue", "-h", "-r", "-t", "all", "-j", job, "-O", "RestartCnt")
        return [int(one) for one in self.cluster.ask(*asked).split()]


@pytest.fixture
def make_lab(cluster: Any, model: list[str], tmp_path: Path) -> Iterator[Callable[[str], Lab]]:
    """Stores of one test; what they leave in the queue is cancelled."""
    made: list[Lab] = []

    def make(name: str) -> Lab:
        made.append(Lab(cluster, list(model), tmp_path / name))
        return made[-1]

    yield make
    for lab in made:
        if left := lab.live():
            lab.thaw()
            cluster.ask("scancel", "--signal=KILL", *left)
            cluster.ask("scancel", *left)
            lab.finish()


@pytest.fixture
def lab(make_lab: Callable[[str], Lab]) -> Lab:
    """A store of its own."""
    return make_lab("out")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """engine.threads holds for the process: give it back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def undisturbed(
    cluster: Any, model: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Lab]:
    """The store of the grid with some more settings, run here by the basic launcher; made once."""
    made: dict[tuple[str, ...], Lab] = {}

    def get(*arguments: str) -> Lab:
        if arguments not in made:
            lab = Lab(cluster, model, tmp_path_factory.mktemp("undisturbed") / "out")
            lab.call("run", *model, *arguments)
            made[arguments] = lab
        return made[arguments]

    return get


@pytest.fixture
def same_table() -> Callable[[Lab, Lab], None]:
    """Results, records and the printed table are those of the other store."""

    def check(lab: Lab, other: Lab) -> None:
        assert lab.outcome() == other.outcome()
        assert lab.table() == other.table()

    return check
