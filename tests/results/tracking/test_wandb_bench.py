"""Speed and memory in W&B: runs of their own, with the benchmark's values, and Figure 6's dashboard."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from shlex import quote

import pytest
from sparsemm.experiments.figure6_efficiency import board

from sparsemm.cli import run
from sparsemm.results.efficiency import paper_shapes
from sparsemm.results.wandb_bench import bench_run, track
from sparsemm.results.wandb_boards import BOARDS, to_json
from sparsemm.results.wandb_runs import Mirror
from sparsemm.results.wandb_settings import Tracking
from sparsemm.sweep.tracking import track_bench

pytest.importorskip("wandb", reason='needs wandb: pip install "sparsemm[wandb]"')
pytest.importorskip("wandb_workspaces", reason='needs wandb-workspaces: pip install "sparsemm[wandb]"')
MODEL = "llava_next_vicuna_7b"
OFFLINE = Tracking(mode="offline", project="p", entity=None, samples=4, suffix="")


@pytest.fixture
def measured(bench, tmp_path) -> Path:
    """<store>/bench with a bench.json and a part of the figure."""
    out = tmp_path / "outputs" / "bench"
    content = bench(MODEL, (2048, 32768), gpu=True)
    content["settings"]["out"] = "/home/someone/bench"
    out.mkdir(parents=True)
    (out / "bench.json").write_text(json.dumps(content))
    (out / "figure6.csv").write_text("drawn elsewhere")
    return out


def test_a_benchmark_is_one_run_with_the_values_of_its_file(measured, read):
    said = track(measured, measured.parent, OFFLINE)
    assert said.startswith("W&B: 1 of 1 runs are new or changed")
    content = json.loads((measured / "bench.json").read_text())
    (found,) = read(measured.parent / "wandb").values()
    assert (found.job_type, found.group, found.project) == ("bench", "bench", "p")
    assert found.config["machine"] == content["machine"] and found.config["shapes"] == [MODEL]
    assert "/home/someone" not in json.dumps(found.config)
    table = found.table("results")
    lines = [dict(zip(table["columns"], line, strict=True)) for line in table["data"]]
    assert len(lines) == len(content["results"]) == 16
    for line, result in zip(lines, content["results"], strict=True):
        for key, value in result.items():
            assert line[key] == (json.dumps(value) if isinstance(value, list) else value)
    points = [one for one in found.points if "prompt_tokens" in one]
    assert [one["prompt_tokens"] for one in points] == [2048, 32768]
    for point in points:
        assert point[f"{MODEL}/ms_per_token/sparsemm_256_graph"] == 5.0
        assert point[f"{MODEL}/peak_gb/full"] == 30.0
    (artifact,) = [one for one in found.artifacts if one.type == "bench"]
    assert {"bench.json", "figure6.csv"} == {one.path for one in artifact.manifest.contents}
    assert track(measured, measured.parent, OFFLINE).startswith("W&B: 0 of 1 runs are new or changed")


def test_files_are_sent_where_a_report_was_first_or_another_figure_was_drawn(measured, read):
    mirror = Mirror(measured.parent, OFFLINE)
    content = json.loads((measured / "bench.json").read_text())

    def as_reports_do():
        return len(mirror.write([bench_run(content)], lambda *_: []))

    def files():
        (found,) = read(mirror.folder).values()
        artifacts = [one for one in found.artifacts if one.type == "bench"]
        return {one.path for artifact in artifacts for one in artifact.manifest.contents}

    assert as_reports_do() == 1 and files() == set()
    assert track(measured, measured.parent, OFFLINE).startswith("W&B: 1 of 1")
    assert files() == {"bench.json", "figure6.csv"}
    assert as_reports_do() == 0 and files() == {"bench.json", "figure6.csv"}
    (measured / "figure6.csv").write_text("drawn again")
    assert track(measured, measured.parent, OFFLINE).startswith("W&B: 1 of 1")
    assert track(measured, measured.parent, OFFLINE).startswith("W&B: 0 of 1")


@pytest.mark.parametrize(
    ("out", "root"),
    [
        ("outputs/bench", "outputs"),
        ("outputs/bench/a100", "outputs"),
        ("run1", "outputs"),
        ("../store/bench/smoke", "../store"),
        ("../empty/bench", "outputs"),
    ],
)
def test_the_copy_of_a_benchmark_is_where_sync_looks(tmp_path, monkeypatch, measured, out, root):
    here = tmp_path / "bench"  # a name that says nothing
    (tmp_path / "store" / "cells").mkdir(parents=True)
    here.mkdir()
    monkeypatch.chdir(here)
    out = (here / out).resolve()
    out.mkdir(parents=True)
    (measured / "bench.json").rename(out / "bench.json")
    said = track_bench(out, OFFLINE, None)
    root = (here / root).resolve()
    assert len(list(root.glob("wandb/offline-run-*"))) == 1
    where = "" if root == here / "outputs" else f" {quote(f'output={root}')}"
    assert said.endswith(f"sparsemm sync{where}\n")


def test_measuring_again_updates_the_run_and_another_machine_has_its_own(bench):
    one = bench_run(bench(MODEL, (2048,), gpu=True))
    again = bench_run(bench(MODEL, (2048,), gpu=True, ms=7.0, when="2027-01-01T00:00:00+00:00"))
    other = bench_run(bench(MODEL, (2048,), gpu=True, device="another"))
    assert one.id == again.id != other.id and one.digest != again.digest
    assert bench_run(bench(MODEL, (2048,), gpu=True), "again").id == f"{one.id}-again"


def test_the_figures_dashboard_shows_what_its_runs_log(bench):
    made = board(project="p", entity=None)
    found = {kind: json.loads(text) for kind, text in to_json(made).items()}
    logged = {
        key
        for shape in paper_shapes()
        for point in bench_run(bench(shape, (2048,), gpu=True)).history
        for key in point
    }
    for one in found.values():
        spec = json.dumps(one)
        assert [key for key in logged if key not in spec] == []
    assert found["report"]["displayName"] == made.title


def test_online_the_run_is_sent_and_the_dashboard_saved_once(measured, server):
    online = replace(OFFLINE, mode="online")
    made = board(project="p", entity=None)
    said = track(measured, measured.parent, online, made)
    assert "W&B: sent 1 run" in said and f"workspace: {server.url}/me/p?nw=" in said
    (name,) = server.runs
    assert server.runs[name]["jobType"] == "bench"
    assert server.summary(name)[f"{MODEL}/peak_gb/full"] == 30.0
    assert [view["displayName"] for view in server.views] == [f"sparsemm: {made.report}", made.title]
    assert all((measured / file).is_file() for file in BOARDS.values())
    assert "sent 0 runs; 1 were there" in track(measured, measured.parent, online, made)
    assert len(server.views) == 2


def test_whatever_wandb_does_the_files_stay(measured, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no space\nleft")

    monkeypatch.setattr("sparsemm.results.wandb_runs.Mirror.write", broken)
    assert "W&B: no copy (RuntimeError: no space)" in track(measured, measured.parent, OFFLINE)


def test_the_figures_smoke_run_is_drawn_and_tracked_from_the_command_line(
    tmp_path, monkeypatch, capsys, read
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sparsemm.bench.kernel.copy_gb_per_s", lambda _: 10.0)
    quick = ["methods=full,sparsemm", "backend=torch"]
    smoke = ["bench", "+experiment=figure6_efficiency", "+smoke=true", *quick]
    assert run([*smoke, "tracking=offline", "tracking.project=a/b"]) == 2
    assert (
        "tracking.project=a/b: W&B takes" in capsys.readouterr().err and not (tmp_path / "outputs").exists()
    )
    assert run([*smoke, "tracking=offline"]) == 0
    assert "W&B: 1 of 1 runs are new or changed" in capsys.readouterr().out
    out = tmp_path / "outputs" / "bench" / "smoke"
    content = json.loads((out / "bench.json").read_text())
    (found,) = read(tmp_path / "outputs" / "wandb").values()
    assert found.summary["results"] == len(content["results"])
    assert found.config["settings"]["smoke"] is True
    (artifact,) = [one for one in found.artifacts if one.type == "bench"]
    drawn = {f"figure6.{kind}" for kind in ("svg", "png", "md", "csv")}
    assert {one.path for one in artifact.manifest.contents} == {"bench.json", "bench.csv"} | drawn
    assert "the tiny shape on" in (out / "figure6.md").read_text()
    assert all((out / name).is_file() for name in BOARDS.values())
