"""The command line as a user has it: real Hydra, in a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from sparsemm.cli import hydra_arguments, run
from sparsemm.help import HELP, VERBS

PATIENCE_S = 300.0  # for what is a matter of seconds on a machine that does nothing else


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """One command in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sparsemm"])

    def call(*arguments: str) -> Done:
        try:
            code = run(arguments)
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Done(code, *capsys.readouterr())

    return call


@pytest.fixture
def process(tmp_path):
    """One command in a process of its own, outside the clone."""

    def call(*arguments: str, **environment: str) -> Done:
        command = [sys.executable, "-m", "sparsemm.cli", *arguments]
        env = {**os.environ, "PYTHONSAFEPATH": "1", **environment}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=env, check=False)
        return Done(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def model(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("model")
    config = {"model_type": "qwen2_vl", "num_hidden_layers": 2, "num_attention_heads": 4}
    config |= {"num_key_value_heads": 2, "hidden_size": 32}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "heads.json").write_text(json.dumps({"format": 1, "scores": [[1, 2, 3, 4], [4, 3, 2, 1]]}))
    return [f"model.path={folder}", f"model.head_scores={folder}/heads.json"]


def test_plan_starts_nothing_and_leaves_nothing(process, model, tmp_path):
    done = process("plan", "+experiment=quickstart", *model)
    assert done.code == 0, done.err
    assert "55 cells (180 combinations; the others are the same cells), 0 finished" in done.out
    assert list(tmp_path.iterdir()) == []


NEW_SCORER = """
from dataclasses import dataclass

import torch

from sparsemm.methods.base import Scorer


@dataclass(frozen=True, kw_only=True)
class FirstTokens(Scorer):
    step: int

    def scores(self, queries, keys, scaling, candidates):
        return -self.step * torch.arange(candidates).float().expand(len(keys), -1)
"""
SMALL = [
    "method.window=4", "engine.device=cpu", "task.limit=1", "task.page.width=96", "task.page.height=48",
    "task.page.font_size=[12,14]",
    "task.page.entries=[2,2]", "budget=8", "rho=0.1",
]  # fmt: skip


def test_a_grid_ends_with_its_table_and_running_again_does_nothing(cli, random_model_folder, tmp_path):
    grid = [*SMALL, f"model.path={random_model_folder}", "method=full,snapkv"]
    first = cli("run", *grid)
    assert first.code == 0, first.err
    assert "SnapKV" in first.out and "table.md" in first.out and "  sparsemm status" in first.out
    assert re.search(r"2 cells: +100%\|.*\| \d+/\d+ \[\d\d:\d\d<00:00, .*sample", first.err), "progress"
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]
    results = {path: path.read_bytes() for path in tmp_path.rglob("result.json")}
    assert len(results) == 2
    again = cli("run", *grid)
    assert again.out.startswith("2 cells, all finished")
    status = cli("status")
    assert "2 cells: 2 done" in status.out
    assert {path: path.read_bytes() for path in tmp_path.rglob("result.json")} == results


HELD = """
import time
from dataclasses import dataclass
from pathlib import Path

from sparsemm.tasks.synthetic import Documents


@dataclass(frozen=True, kw_only=True)
class Held(Documents):
    def _image(self, number):
        while number >= 20 and Path(__file__).with_name("hold").exists():
            time.sleep(0.01)
        return super()._image(number)
"""


def test_a_killed_command_run_again_gives_the_same_tables(random_model_folder, tmp_path):
    """Its last pages wait, so that it is killed in the middle however late that is noticed."""
    (tmp_path / "held.py").write_text(HELD)
    (tmp_path / "hold").touch()
    grid = [*SMALL, f"model.path={random_model_folder}", "method=full,snapkv,random", "seed=0,1"]
    grid += ["budget=8,12", "task.limit=24", "engine.batch_prompts=1", "engine.threads=1"]
    grid += ["task._target_=held.Held"]
    outputs = tmp_path / "outputs"

    def start(folder: Path = tmp_path) -> subprocess.Popen[bytes]:
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "sparsemm.cli", "run", *grid]
        environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": str(tmp_path)}
        with (folder / "log.txt").open("ab") as log:
            return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment)

    def answers() -> int:
        files = list(outputs.glob("cells/*/*/samples-*.jsonl"))  # the first line is a header
        return sum(file.read_bytes().count(b"\n") for file in files) - len(files)

    def kill_when(condition: Callable[[], bool]) -> None:
        process, end = start(), time.monotonic() + PATIENCE_S
        while not condition():
            assert process.poll() is None and time.monotonic() < end, (tmp_path / "log.txt").read_text()
            time.sleep(0.002)
        process.kill()
        assert process.wait() == -signal.SIGKILL

    kill_when(lambda: answers() > 0)
    first = answers()
    kill_when(lambda: answers() > first + 60)
    assert not list(outputs.rglob("result.json")), "killed in the middle"
    (tmp_path / "hold").unlink()
    assert start().wait(PATIENCE_S) == 0, (tmp_path / "log.txt").read_text()
    assert start(tmp_path / "calm").wait(PATIENCE_S) == 0
    for name in ("table.md", "table.csv"):
        (resumed,) = outputs.glob(f"reports/*/{name}")
        calm = tmp_path / "calm" / resumed.relative_to(tmp_path)
        assert resumed.read_bytes() == calm.read_bytes()
    results = [json.loads(path.read_text()) for path in outputs.rglob("result.json")]
    assert max(result["provenance"]["attempts"] for result in results) == 3


def test_hydras_basic_sweeper_runs_the_same_cells(cli, random_model_folder, tmp_path):
    grid = [*SMALL, f"model.path={random_model_folder}", "method=full,snapkv"]
    basic = cli("run", "hydra/sweeper=basic", *grid)
    assert basic.code == 0, basic.err
    assert len(list(tmp_path.rglob("result.json"))) == 2
    assert cli("run", *grid).out.startswith("2 cells, all finished")
    invalid = cli("run", "hydra/sweeper=basic", *grid, "budget=2")
    assert invalid.code == 2
    assert "budget=2: must be at least 4" in invalid.err


def test_a_new_scorer_is_two_new_files(cli, random_model_folder, tmp_path, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("mine")
    (folder / "first_tokens.py").write_text(NEW_SCORER)
    (folder / "scorer").mkdir()
    (folder / "scorer" / "first_tokens.yaml").write_text(
        "_target_: first_tokens.FirstTokens\nstep: 1  # of rank\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    known = ["--config-dir", str(folder), *SMALL, f"model.path={random_model_folder}"]
    done = cli("run", *known, "method=snapkv", "scorer=first_tokens")
    assert done.code == 0, done.err
    (result,) = tmp_path.rglob("result.json")
    assert json.loads(result.read_text())["label"]["scorer"] == "first_tokens"
    assert "must be a whole number" in cli("run", *known, "scorer=first_tokens", "scorer.step=x").err


def test_an_invalid_grid_exits_with_2_and_one_line_per_mistake(cli, model, tmp_path):
    done = cli("run", "-m", "method=full,snapkv", "budget=8,64", *model)
    assert done.code == 2
    assert "Traceback" not in done.err
    assert done.err.startswith(
        "sparsemm: 1 of 4 cells are invalid, nothing was started:\n  budget=8: must be"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_loaded_is_a_failure(cli, model, tmp_path):
    done = cli("run", "method=snapkv", "task.limit=1", *model)
    assert done.code == 1
    assert "sparsemm: 1 of 1 cells failed" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pln"], "pln: there is no such verb. Did you mean plan?"),
        (["method=full"], "method=full: a verb comes first. Try: sparsemm run method=full"),
        (["run", "metod=full"], "metod: there is no such setting. Did you mean method?"),
        (["plan", "model=tny"], "model=tny: there is no such model. Did you mean tiny? There are: "),
        (["run", "task=document"], "task=document: there is no such task. Did you mean documents?"),
        (["run", "task=charts,redaing"], "task=redaing: there is no such task. Did you mean reading?"),
        (["run", "method=snapk"], "method=snapk: there is no such method. Did you mean snapkv?"),
        (
            ["run", "+experiment=quick"],
            "experiment=quick: there is no such experiment. Did you mean quickstart?",
        ),
        (["run", "--cfg", "job", "rho=x"], "rho=x: must be a number"),
        (["plan", "hydra/sweeper=basic"], "hydra/sweeper: plan works with the project's own sweeper"),
    ],
)
def test_a_mistake_is_named_with_the_nearest_name(cli, arguments, words):
    done = cli(*arguments)
    assert done.code == 2
    assert words in done.err
    assert "Traceback" not in done.err


def test_help_and_version_need_no_configuration(process):
    assert process().out == process("--help").out == HELP + "\n"
    assert process("--version").out.startswith("sparsemm ")


@pytest.mark.parametrize("verb", sorted({*VERBS} - {"bench"}))  # which has no groups: tests/bench
def test_every_verb_explains_itself_and_lists_what_can_be_chosen(cli, verb):
    done = cli(verb, "--help")
    assert done.code == 0
    assert done.out.startswith(VERBS[verb])
    assert (
        "adakv, full, headkv, permuted, pyramidkv, random, snapkv, sparsemm, streamingllm, window" in done.out
    )


def test_the_configuration_can_be_looked_at(cli):
    shown = cli("run", "--cfg", "job", "method=full", "-m")
    assert shown.code == 0
    assert "  name: full" in shown.out and "hydra:" not in shown.out
    assert cli("plan", "--info", "defaults").code == 0


def test_status_without_a_sweep_says_how_to_start_one(cli):
    done = cli("status")
    assert done.code == 0
    assert "sparsemm run +experiment=quickstart" in done.out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sparsemm st", "status"),
        ("sparsemm run method=s", "method=snapkv method=sparsemm method=streamingllm"),
        ("sparsemm plan allocator=u", "allocator=uniform"),
        ("sparsemm bench round", "rounds="),
    ],
)
def test_the_shell_completes_verbs_and_choices(process, line, words):
    assert process("-sc", "query=bash", COMP_LINE=line).out.split() == words.split()


def test_a_verb_is_a_multirun_unless_it_only_looks():
    assert hydra_arguments("run", ["-m", "a=1"]) == ["--multirun", "a=1"]
    assert hydra_arguments("plan", ["a=1"]) == ["--multirun", "hydra.sweeper.action=plan", "a=1"]
    assert hydra_arguments("plan", ["--cfg", "job", "-m"]) == ["--cfg", "job"]


def test_examples_work_when_pasted(cli, model):
    lines = [line.strip() for text in (HELP, *VERBS.values()) for line in text.splitlines()]
    examples = [re.split(r"  +", line)[0].split() for line in lines if line.startswith("sparsemm ")]
    grids = [words[2:] for words in examples if words[1] in ("run", "plan") and "=" in words[-1]]
    assert len(grids) >= 8
    for grid in grids:
        done = cli("plan", *[word for word in grid if word not in ("--cfg", "job")], *model)
        assert done.code == 0, (grid, done.err)
