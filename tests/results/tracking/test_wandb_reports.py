"""A sweep's copy in W&B from the command line: whole offline, sent online, completed after a cut line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparsemm import experiments
from sparsemm.cli import run
from sparsemm.results.tables import Claim
from sparsemm.results.wandb_boards import Board, to_json
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


@pytest.fixture
def sweep(random_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments of a sweep of two cells in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["sparsemm"])
    return [f"model.path={random_model_folder}", *SMALL]


def _results(folder: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in folder.glob("cells/*/*/result.json")]
    return {one["fingerprint"]: one for one in found}


def test_a_sweep_is_in_wandb_offline_completely_and_once(sweep, tmp_path, read: Callable[..., Any], capsys):
    assert run(["run", *sweep, "tracking=offline"]) == 0
    assert "W&B: 3 of 3 runs are new or changed" in capsys.readouterr().out
    results = _results(tmp_path / "outputs")
    runs = read(tmp_path / "outputs" / "wandb")
    assert len(results) == 2 and results.keys() < runs.keys()
    for name, result in results.items():
        assert runs[name].summary["score"] == result["score"]
        table = runs[name].table("samples")
        assert len(table["data"]) == 4 and all(row[1]["_type"] == "image-file" for row in table["data"])
    (report,) = runs.keys() - results.keys()
    names = [entry.path for one in runs[report].artifacts for entry in one.manifest.contents]
    assert {"page.html", "table.csv", "figure.png"} <= set(names)
    assert run(["report", "tracking=offline"]) == 0
    assert "W&B: 0 of 3 runs are new or changed" in capsys.readouterr().out
    assert runs.keys() == read(tmp_path / "outputs" / "wandb").keys()


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
    monkeypatch.setattr("sparsemm.results.wandb_sync.LIMIT_S", 60.0)
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
    assert "heads/tiny" in report.history


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
        places=[("qwen2_vl_7b", "docvqa"), ("tiny", "it's")],
        project="p",
        entity=entity,
    )
    found = {kind: json.loads(text) for kind, text in to_json(board).items()}
    for one in found.values():
        spec = json.dumps(one)
        assert name in spec and claim.columns in spec and "score" in spec
    assert found["report"]["displayName"] == claim.title
