"""A sweep's copy in W&B from the command line: whole offline, sent online, completed after a cut line."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

from sparsemm import experiments
from sparsemm.cli import run
from sparsemm.results.store import Store
from sparsemm.results.tables import Claim
from sparsemm.results.wandb_boards import Board, Curves, to_json
from sparsemm.sweep.claims import experiment_claim
from tests.results.tracking.offline import runs_like_the_store

pytest.importorskip("wandb", reason='needs wandb: pip install "sparsemm[wandb]"')
pytest.importorskip("wandb_workspaces", reason='needs wandb-workspaces: pip install "sparsemm[wandb]"')
SMALL = [
    *("method=full,snapkv", "method.window=4", "budget=8", "task.limit=2", "task.page.width=96"),
    *("task.page.height=48", "task.page.font_size=[12,14]", "task.page.entries=[2,2]", "engine.device=cpu"),
]
EXPERIMENTS = sorted(
    name
    for path in Path(experiments.__path__[0]).glob("*.py")
    if isinstance(experiment_claim(name := path.stem) if "CLAIM" in path.read_text() else None, Claim)
)


@pytest.fixture(scope="module")
def arguments(random_model_folder: Path) -> list[str]:
    """The grid of a sweep of two cells."""
    return [f"model.path={random_model_folder}", *SMALL]


@pytest.fixture
def sweep(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments of a sweep of two cells in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["sparsemm"])
    return arguments


@dataclass(frozen=True)
class Tracked:
    """A finished sweep in <folder>/outputs, tracked offline, with a secret in the environment."""

    folder: Path
    secret: str
    said: str


@pytest.fixture(scope="module")
def tracked(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Tracked:
    """One run for the tests that look at it."""
    folder, secret = tmp_path_factory.mktemp("tracked"), token_hex(20)
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "MY_PASSWORD"):
            patch.setenv(name, secret)
        patch.chdir(folder)
        patch.setattr("sys.argv", ["sparsemm"])
        patch.setattr("sparsemm.sweep.reporting.PATIENCE_S", 0.0)
        assert run(["run", *arguments, "tracking=offline", "tracking.samples=1"]) == 0
    return Tracked(folder, secret, said.getvalue())


def _results(folder: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in folder.glob("cells/*/*/result.json")]
    return {one["fingerprint"]: one for one in found}


def test_a_sweep_is_in_wandb_offline_completely_and_once(tracked, monkeypatch, capsys):
    assert "W&B: 3 of 3 runs are new or changed" in tracked.said
    assert "W&B: copying: 100%" in tracked.said
    cells, report = runs_like_the_store(tracked.folder / "outputs")
    assert len(cells) == 2
    assert all(len(one.table("samples")["data"]) == 1 for one in cells.values())
    names = [entry.path for one in report.artifacts for entry in one.manifest.contents]
    assert {"page.html", "table.csv", "figure.png"} <= set(names)
    monkeypatch.chdir(tracked.folder)
    assert run(["report", "tracking=offline", "tracking.samples=1"]) == 0
    assert "W&B: 0 of 3 runs are new or changed" in capsys.readouterr().out
    assert runs_like_the_store(tracked.folder / "outputs")[0].keys() == cells.keys()


def test_a_secret_in_the_environment_is_in_nothing_that_is_written_or_said(tracked):
    assert tracked.secret not in tracked.said
    files = [file for file in tracked.folder.rglob("*") if file.is_file()]
    assert {"config.yaml", "result.json", "page.html", "wandb-report.json"} <= {file.name for file in files}
    assert [file for file in files if tracked.secret.encode() in file.read_bytes()] == []


def test_a_report_over_an_empty_or_a_mixed_store_says_what_is_missing(tracked, sweep, tmp_path, capsys, read):
    assert run(["report", "tracking=offline"]) == 0
    assert f"There is no sweep in {tmp_path / 'outputs'} yet. Start one:" in capsys.readouterr().out
    shutil.copytree(tracked.folder / "outputs" / "cells", tmp_path / "outputs" / "cells")
    torn = next((tmp_path / "outputs").glob("cells/*/*/result.json"))
    torn.write_text(torn.read_text()[:40])
    Store(tmp_path / "outputs").cell(torn.parent.name).write_failure("it broke")
    wider = [one.replace("budget=8", "budget=8,12") for one in sweep]
    assert run(["report", *wider, "tracking=offline"]) == 0
    out = capsys.readouterr().out
    assert "2 of 3 cells have no result: 1 failed, 1 not run yet." in out
    page = Path(next(line for line in out.splitlines() if line.endswith("page.html"))).read_text()
    assert page.count("it broke") == 1 and page.count("<li>model tiny, task documents, method") == 2
    runs = read(tmp_path / "outputs" / "wandb")
    (report,) = [one for one in runs.values() if one.job_type == "report"]
    assert len(runs) == 2
    assert (report.summary["cells"], report.summary["cells_missing"]) == (1, 2)


def test_a_line_that_is_cut_costs_no_cell_and_the_next_report_completes_wandb(
    sweep, tmp_path, server, capsys, monkeypatch
):
    monkeypatch.setattr("sparsemm.results.wandb_sync.LIMIT_S", 4.0)
    server.down_after = 1
    assert run(["run", *sweep, "tracking=online"]) == 0
    said = capsys.readouterr()
    assert len(_results(tmp_path / "outputs")) == 2
    assert (said.out + said.err).count("could not be sent") == 1
    assert not server.views
    server.down, server.down_after = False, None
    monkeypatch.setattr("sparsemm.results.wandb_sync.LIMIT_S", 300.0)
    assert run(["sync"]) == 0
    assert set(server.runs) >= set(_results(tmp_path / "outputs")) and len(server.runs) == 3
    capsys.readouterr()
    assert run(["report", "tracking=online"]) == 0
    out = capsys.readouterr().out
    assert "W&B: sent 0 runs; 3 were there." in out
    assert f"workspace: {server.url}/me/sparsemm?nw=" in out and f"report: {server.url}/me/sparsemm/" in out
    assert [view["type"] for view in server.views] == ["project-view", "runs"]
    assert {(view["entityName"], view["projectName"]) for view in server.views} == {("me", "sparsemm")}
    assert run(["report", "tracking=online"]) == 0
    assert len(server.views) == 2, "dashboards are saved once"


def test_the_quickstart_is_in_wandb_offline_completely(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["sparsemm"])
    small = ["task.limit=2", "engine.device=cpu", "tracking=offline", "tracking.samples=2"]
    assert run(["run", "+experiment=quickstart", *small]) == 0
    cells, report = runs_like_the_store(tmp_path / "outputs")
    assert len(cells) == 55
    assert report.summary["cells"] == 55 and report.summary["cells_missing"] == 0
    assert "%. Found on " in report.history["heads/tiny"]["caption"]


def test_what_was_measured_of_the_model_is_on_the_page_and_a_run_of_its_own(
    tracked, bench, tmp_path, monkeypatch, read
):
    shutil.copytree(tracked.folder / "outputs", tmp_path / "outputs", symlinks=True)
    for shape in ("tiny", "qwen2_vl_7b"):
        (tmp_path / "outputs" / "bench" / shape).mkdir(parents=True)
        file = tmp_path / "outputs" / "bench" / shape / "bench.json"
        file.write_text(json.dumps(bench(shape, (64, 128), decodes=("eager",))))
    monkeypatch.chdir(tmp_path)
    assert run(["report", "tracking=offline", "tracking.samples=1"]) == 0
    (page,) = (tmp_path / "outputs" / "reports").glob("*/page.html")
    assert 'id="efficiency"' in page.read_text()
    benches = [one for one in read(tmp_path / "outputs" / "wandb").values() if one.job_type == "bench"]
    assert [one.config["shapes"] for one in benches] == [["tiny"]]


def test_no_key_stops_the_run_before_any_work(sweep, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert run(["run", *sweep, "tracking=online"]) == 2
    assert "Nothing was started: tracking=online: W&B has no API key here." in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()


def test_whatever_wandb_does_the_report_is_written(sweep, tmp_path, monkeypatch, capsys):
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no space\nleft")

    monkeypatch.setattr("sparsemm.results.wandb_runs.Mirror.write", broken)
    assert run(["run", *sweep, "tracking=offline"]) == 0
    out = capsys.readouterr().out
    assert "W&B: no copy (RuntimeError: no space). The store has everything: report again." in out
    assert list(tmp_path.glob("outputs/reports/*/page.html"))


def panels(value: Any) -> list[dict[str, Any]]:
    """The settings of every panel of a dashboard, in W&B's words."""
    if isinstance(value, list):
        return [panel for one in value for panel in panels(one)]
    if not isinstance(value, dict):
        return []
    own = [value["config"]] if "viewType" in value else []
    return own + [panel for one in value.values() for panel in panels(one)]


@pytest.mark.parametrize("entity", [None, "team"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_dashboards(name, entity, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody is asked
    claim = experiment_claim(name)
    board = Board(
        report=name,
        title=claim.title,
        sentence=claim.sentence,
        key=claim.columns,
        places=[
            Curves(model="qwen2_vl_7b", task="docvqa", metrics=["score/qwen2_vl_7b/docvqa/full"]),
            Curves(model="tiny", task="it's", metrics=["score/tiny/its/full"]),
        ],
        project="p",
        entity=entity,
    )
    found = {kind: json.loads(text) for kind, text in to_json(board).items()}
    for one in found.values():
        spec = json.dumps(one)
        assert f'"value": ["{name}"]' in spec and f"config:{claim.columns}.value" in spec
        (curves,) = [panel for panel in panels(one) if panel.get("metrics") == ["score/tiny/its/full"]]
        assert curves["xAxis"] == claim.columns
    assert "it's" in json.dumps(found["report"])
    assert found["report"]["displayName"] == claim.title
