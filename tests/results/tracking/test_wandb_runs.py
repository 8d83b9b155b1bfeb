"""Offline runs hold what the store holds, value by value; sent ones arrive, and arrive once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparsemm.results.page import HeadMap
from sparsemm.results.tables import build_tables
from sparsemm.results.wandb_content import SUMMARY, cell_run, curve_metrics, report_run
from sparsemm.results.wandb_runs import Mirror
from sparsemm.results.wandb_settings import Tracking
from sparsemm.results.wandb_sync import sync

pytest.importorskip("wandb", reason='needs wandb: pip install "sparsemm[wandb]"')
Results = list[dict[str, Any]]


def contents(grid: Results, store: Any, **options: Any) -> list[Any]:
    cells = [
        cell_run(one, "demo", store.cell(one["fingerprint"]).samples().records, 4, **options) for one in grid
    ]
    return [*cells, report_run("demo", "A title", build_tables(grid), grid, 0, **options)]


def test_every_cell_is_one_run_with_the_values_of_the_store(grid, store, mirror, images, read):
    mirror.write(contents(grid, store), images)
    found = read(mirror.folder)
    assert set(found) == {one["fingerprint"] for one in grid} | {"report-demo"}
    for result in grid:
        run = found[result["fingerprint"]]
        assert (run.group, run.job_type, run.project) == ("demo", "cell", "p")
        assert {"demo", "tiny", "documents", result["label"]["method"]} == set(run.tags)
        for key, value in result["label"].items():
            assert run.config.get(key) == value
        assert run.config["fingerprint"] == result["fingerprint"]
        for ours, theirs in SUMMARY.items():
            assert run.summary[theirs] == result[ours], theirs
        assert run.summary["group/wall_s"] == 12.5 and run.summary["group/cells"] == 25
        assert not [key for key in run.summary if "latency" in key]
        table = run.table("samples")
        assert table["columns"][0] == "sample" and len(table["data"]) == 4
        records = store.cell(result["fingerprint"]).samples().records
        for name, image, question, answer, references, score, kept, error in table["data"]:
            record = records[name]
            assert (question, answer, score, error) == (
                record["question"],
                record["answer"],
                record["score"],
                None,
            )
            assert references == "a | b" and kept == 0.25
            assert run.staged(image["path"]).stat().st_size > 100
            assert run.staged(image["path"]).is_relative_to(mirror.root)


def test_report_has_the_tables_the_curves_the_head_maps_and_the_files(cell, tmp_path, mirror, images, read):
    results = [
        cell("qwen2_vl_7b", "textvqa", method, budget, score)
        for method, budget, score in (("full", None, 0.8), ("snapkv", 64, 0.5), ("sparsemm", 64, 0.7))
    ]
    from sparsemm.results.tables import Claim

    tables = build_tables(results, (), Claim(title="", sentence="", paper="table3"))
    (tmp_path / "table.md").write_text("a table")
    picture = (Path(__file__).parents[3] / "docs" / "quickstart.png").read_bytes()
    maps = [HeadMap("qwen2_vl_7b", "a caption", picture, picture)]
    run = report_run("table3", "Table 3", tables, results, 2)
    mirror.write([run], images, maps, {"table.md": tmp_path / "table.md"})
    found = read(mirror.folder)["report-table3"]
    assert found.summary["cells"] == 3 and found.summary["cells_missing"] == 2
    table = found.table("results")
    lines = [dict(zip(table["columns"], line, strict=True)) for line in table["data"]]
    ours = next(line for line in lines if line["method"] == "snapkv")
    assert ours["score"] == pytest.approx(0.5) and ours["paper"] is not None
    assert ours["difference"] == pytest.approx(ours["score"] - ours["paper"])
    wide = found.table("tables/qwen2_vl_7b/textvqa")
    assert wide["columns"] == ["method", "budget 64"] and wide["data"][0][0] == "Full cache"
    assert found.history["heads/qwen2_vl_7b"]["_type"] == "image-file"
    assert any(key.startswith("curves/qwen2_vl_7b/textvqa") for key in found.history)
    (artifact,) = [one for one in found.artifacts if one.type == "report"]
    assert artifact.name == "report-table3"
    assert [entry.path for entry in artifact.manifest.contents] == ["table.md"]


def test_what_has_not_changed_is_not_written_again_and_what_has_replaces_it(
    grid, store, mirror, images, read
):
    runs = contents(grid, store)
    assert len(mirror.write(runs, images)) == len(runs)
    assert mirror.write(runs, images) == []
    grid[0]["score"] = 0.123
    assert len(mirror.write(contents(grid, store)[:1], images)) == 1
    found = read(mirror.folder)
    assert len(found) == len(runs) and found[grid[0]["fingerprint"]].summary["score"] == 0.123


def test_reports_that_share_cells_show_them_all_and_take_none_from_each_other(
    grid, store, mirror, images, read
):
    def reported(name: str, results: Results) -> int:
        records = store.cell(grid[0]["fingerprint"]).samples().records
        runs = [cell_run(one, name, records, 0) for one in results]
        return len(mirror.write([*runs, report_run(name, "", build_tables(results), results, 0)], images))

    assert reported("table", grid) == len(grid) + 1
    assert reported("curves", grid[:2]) == 3
    assert reported("table", grid) == reported("curves", grid[:2]) == 0
    found = read(mirror.folder)
    for number, result in enumerate(grid):
        run = found[result["fingerprint"]]
        assert run.group == "table" and {"table", "curves"} & set(run.tags) == (
            {"table", "curves"} if number < 2 else {"table"}
        )
    grid[0]["score"] = 0.123
    assert reported("curves", grid[:2]) == 2
    assert {"table", "curves"} <= set(read(mirror.folder)[grid[0]["fingerprint"]].tags)


def test_the_reports_run_has_the_curves_that_dashboards_draw(make, mirror, images, read):
    results = [make("full", None, 0.9, entries=100.0)]
    results += [make("random", 8, 0.3, seed=seed) for seed in range(2)] + [make("sparsemm", 64, 0.8)]
    tables = build_tables(results)
    mirror.write([report_run("demo", "", tables, results, 0)], images)
    (run,) = read(mirror.folder).values()
    full, random, sparsemm = (f"score/tiny/documents/{method}" for method in ("full", "random", "sparsemm"))
    assert list(curve_metrics(tables[0]).values()) == [full, sparsemm, random]
    points = [one for one in run.points if "budget" in one]
    assert [one["budget"] for one in points] == [8, 64]
    assert points[0][full] == points[1][full] == results[0]["score"]
    assert points[1][sparsemm] == results[3]["score"] and sparsemm not in points[0]
    assert points[0][random] == pytest.approx((results[1]["score"] + results[2]["score"]) / 2)


def test_what_the_environment_says_of_runs_is_not_theirs(
    grid, store, mirror, images, read, server, monkeypatch
):
    import wandb

    wandb.teardown()  # it reads the environment once
    theirs = {
        "SWEEP_ID": "sweep",
        "RUN_ID": "agents",
        "PROJECT": "other",
        "NOTES": "5ec4e7",
        "RESUME": "must",
    }
    for name, value in theirs.items():  # as below `wandb agent`
        monkeypatch.setenv(f"WANDB_{name}", value)
    mirror.write(contents(grid, store)[:1], images)
    found = read(mirror.folder)
    assert set(found) == {grid[0]["fingerprint"]}
    assert {run.project for run in found.values()} == {"p"}
    assert not any(b"5ec4e7" in file.read_bytes() for file in mirror.folder.glob("*/run-*.wandb"))
    assert os.environ["WANDB_RUN_ID"] == "agents"
    assert len(sync(mirror.folder).sent) == 1 and set(server.runs) == set(found)
    assert {(run["project"], run["groupName"]) for run in server.runs.values()} == {("p", "demo")}


@pytest.mark.parametrize(
    ("budgets", "places"), [(("10%", "5%"), [5, 10]), (("10%", 64), []), ((8, 64), [8, 64])]
)
def test_curves_have_an_axis_where_it_is_a_number(make, budgets, places):
    results = [make("snapkv", budget, 0.5) for budget in budgets]
    run = report_run("demo", "", build_tables(results), results, 0)
    assert [one["budget"] for one in run.history] == places


def test_images_that_are_not_at_hand_stop_nothing(grid, store, mirror, read):
    def none(_: str, __: int) -> list[Any]:
        raise OSError("gone")

    mirror.write(contents(grid, store)[:1], none)
    (run,) = read(mirror.folder).values()
    assert [row[1] for row in run.table("samples")["data"]] == [None] * 4


def test_sync_sends_every_run_once_with_the_values_of_the_store(grid, store, mirror, images, server):
    mirror.write(contents(grid, store), images, files={"config": Path(__file__)})
    done = sync(mirror.folder)
    assert done.failed == () and len(done.sent) == len(grid) + 1, done
    assert set(server.runs) == {one["fingerprint"] for one in grid} | {"report-demo"}
    for result in grid:
        assert server.summary(result["fingerprint"])["score"] == result["score"]
        assert server.runs[result["fingerprint"]]["groupName"] == "demo"
    assert any("/media/table/" in name for name in server.uploads)
    assert server.artifacts
    before = len(server.upserts)
    again = sync(mirror.folder)
    assert (again.sent, again.before, len(server.upserts)) == ((), len(grid) + 1, before)
    assert str(again).startswith("W&B: sent 0 runs; 26 were there.")


def test_sending_says_how_far_it_is(grid, store, mirror, images, monkeypatch, server):
    def send(runs: Any, *_: Any) -> str:
        for run in runs:
            (file,) = run.glob("run-*.wandb")
            file.with_name(f"{file.name}.synced").touch()
        return ""

    monkeypatch.setattr("sparsemm.results.wandb_sync._send", send)
    monkeypatch.setattr("sparsemm.results.wandb_sync.AT_ONCE", 2)
    mirror.write(contents(grid, store)[:3], images)
    told: list[int] = []
    assert len(sync(mirror.folder, tried=told.append).sent) == sum(told) == 3 and told == [2, 1]


def test_a_run_that_changed_is_sent_again_under_its_id(grid, store, mirror, images, server):
    mirror.write(contents(grid, store)[:1], images)
    sync(mirror.folder)
    grid[0]["score"] = 0.123
    mirror.write(contents(grid, store)[:1], images)
    assert sync(mirror.folder).sent == (grid[0]["fingerprint"],)
    assert list(server.runs) == [grid[0]["fingerprint"]]
    assert server.summary(grid[0]["fingerprint"])["score"] == 0.123


def test_a_run_written_twice_in_a_second_keeps_its_id(grid, store, mirror, images, server):
    (folder,) = mirror.write(contents(grid, store)[:1], images)
    folder.rename(folder.with_name(f"{folder.name}-1"))  # as wandb names the second
    assert sync(mirror.folder).sent == (grid[0]["fingerprint"],)


def test_what_a_cut_line_keeps_back_goes_up_later(grid, store, mirror, images, server):
    mirror.write(contents(grid, store)[:3], images)
    server.down = True
    cut = sync(mirror.folder, limit_s=4)
    assert cut.sent == () and len(cut.failed) == 3
    assert "3 runs could not be sent:" in str(cut) and "`sparsemm sync`" in str(cut)
    server.down = False
    assert len(sync(mirror.folder).sent) == 3 and len(server.runs) == 3


def test_a_run_that_was_deleted_in_wandb_is_named_and_a_new_suffix_makes_it_anew(
    grid, store, mirror, images, server
):
    server.deleted.add(grid[0]["fingerprint"])
    mirror.write(contents(grid, store)[:2], images)
    done = sync(mirror.folder)
    assert done.failed == (grid[0]["fingerprint"],) and "tracking.suffix=again" in done.reason
    mirror.write(contents(grid, store, suffix="again")[:1], images)
    assert sync(mirror.folder).sent == (f"{grid[0]['fingerprint']}-again",)


def test_a_key_is_asked_for_before_any_work(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    online = Tracking(mode="online", project="p", entity=None, samples=1, suffix="")
    with pytest.raises(ValueError, match=r"no API key here. Log in with `wandb login`.*tracking=offline"):
        online.check()


@pytest.mark.parametrize("name", ["a/b", "", "a" * 129, "50%", "a:b"])
def test_a_project_that_wandb_refuses_is_refused_before_any_work(name):
    with pytest.raises(ValueError, match=r"tracking\.project=.*Set tracking\.project"):
        Tracking(mode="offline", project=name, entity=None, samples=1, suffix="").check()


def test_without_wandb_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(ValueError, match=r'tracking=offline: needs wandb.*pip install "sparsemm\[wandb\]"'):
        Tracking(mode="offline", project="p", entity=None, samples=1, suffix="").check()


def test_a_secret_in_the_environment_is_in_no_file_and_goes_nowhere(
    grid, store, mirror: Mirror, images: Callable[..., Any], server, monkeypatch
):
    secret = "5ec4e77f3a9c51d2e84b60a1b2c3d4e5f6a7b8c9"
    for name in ("HF_TOKEN", "MY_PASSWORD", "WANDB_NOTES_TOKEN"):
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("WANDB_API_KEY", secret)
    mirror.write(contents(grid, store)[-2:], images)
    done = sync(mirror.folder)
    assert done.failed == (), done
    assert secret.encode() not in server.seen
    for file in mirror.root.rglob("*"):
        assert not file.is_file() or secret.encode() not in file.read_bytes(), file
