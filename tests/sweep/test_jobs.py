import json
import re
from dataclasses import asdict, replace

import pytest

from sparsemm.results.store import Store
from sparsemm.sweep.awaiting import names
from sparsemm.sweep.grid import make_grid
from sparsemm.sweep.jobs import (
    SweepRecord,
    group_into_jobs,
    last_sweep,
    quoted,
    report_name,
    run_file,
    write_job,
    write_jobs,
)


def _record(name: str, created: float) -> SweepRecord:
    return SweepRecord(name, name, [], None, [{"fingerprint": "ab", "label": {"budget": 1}}], {}, created)


@pytest.fixture
def grid(make_composer, model):
    return make_grid(make_composer(), [*model, "method=full,snapkv", "task=documents,charts"])


def test_a_job_file_holds_all_that_a_worker_needs(tmp_path, grid):
    store = Store(tmp_path)
    files = write_jobs(store, _record("one", 1.0), group_into_jobs(grid.cells))
    jobs = [json.loads(file.read_text()) for file in files]
    assert [job["job"] for job in jobs] == [0, 1]
    assert {job["store"] for job in jobs} == {str(tmp_path)}
    (first, second), _ = (job["cells"] for job in jobs)
    assert set(first) == {"fingerprint", "settings", "identity", "label", "group"}
    assert first["group"] == second["group"]
    assert first["settings"]["task"]["page"]["entries"] == [12, 12]


def test_a_job_file_is_never_changed(tmp_path, grid):
    store = Store(tmp_path)
    write_job(store, "one", 0, grid.cells, {})
    with pytest.raises(FileExistsError, match="never changed"):
        write_job(store, "one", 0, grid.cells, {})


def test_the_last_sweep_is_the_one_that_started_last(tmp_path):
    store = Store(tmp_path)
    assert last_sweep(store) is None
    for name, created in (("b", 2.0), ("a", 3.0), ("c", 1.0)):
        write_jobs(store, _record(name, created), [])
    torn = store.sweeps / "torn" / "sweep.json"
    torn.parent.mkdir()
    torn.write_text('{"id": ')
    assert last_sweep(store) == _record("a", 3.0)


def test_a_sweep_of_a_newer_version_can_be_looked_at(tmp_path):
    store = Store(tmp_path)
    for name, content in (("other", {"created": 9.0}), ("newer", asdict(_record("newer", 2.0)) | {"tag": 1})):
        (store.sweeps / name).mkdir(parents=True)
        (store.sweeps / name / "sweep.json").write_text(json.dumps(content))
    assert last_sweep(store) == _record("newer", 2.0)


OWN = {"method": "full,snapkv", "budget": "8,16"}
GRID = [f"{key}={value}" for key, value in OWN.items()]


@pytest.mark.parametrize(
    ("experiment", "overrides", "name"),
    [
        (None, ["output=/x", "watch=true", "hydra/launcher=joblib", "hydra.sweeper.fast=false"], "sweep"),
        ("quickstart", [*GRID, "+experiment=quickstart", "output=~/x"], "quickstart"),
        ("quickstart", ["budget=8", *GRID, "budget=8,16", "experiment=quickstart"], "quickstart"),
    ],
)
def test_a_report_of_an_experiment_as_it_stands_has_its_name(experiment, overrides, name):
    assert report_name(experiment, overrides, OWN if experiment else {}) == name


def test_a_report_of_anything_else_has_a_name_of_its_own_whatever_the_order():
    base = report_name("quickstart", [*GRID, "+experiment=quickstart", "task.limit=5", "rho=0.2"], OWN)
    assert re.fullmatch("quickstart-[0-9a-f]{6}", base)
    again = ["output=x", "rho=0.2", "task.limit=4", *GRID, "task.limit=5", "+experiment=quickstart"]
    assert report_name("quickstart", again, OWN) == base
    others = (["task.limit=5"], ["budget=8", "task.limit=5", "rho=0.2"], ["+note=task.limit=5"])
    names = {report_name("quickstart", [*GRID, *other], OWN) for other in others} | {base}
    assert len(names) == 4
    assert report_name(None, ["task.limit=5", "rho=0.2"], {}).startswith("sweep-")


@pytest.mark.parametrize("text", ["/plain/path", "/with space/a,b", "/it's/{here}=[x]", "/$(x)/\\'q"])
def test_a_path_survives_hydras_grammar(make_composer, text):
    (point,) = make_composer().points([f"job_file={quoted(text)}"])
    assert point.settings["job_file"] == text


def test_scores_that_do_not_fit_fail_the_cells_that_waited_for_them(tmp_path, make_composer, model):
    store, scores = Store(tmp_path / "out"), tmp_path / "scores.json"
    cells = make_grid(make_composer(), [*model[:1], f"model.head_scores={scores}", "budget=64,128"]).cells
    (file,) = write_jobs(store, _record("one", 1.0), [cells], searched=[str(scores)])
    assert last_sweep(store) == _record("one", 1.0), "nothing is known of its cells yet"
    scores.write_text(json.dumps({"format": 1, "scores": [[1.0, 2.0]]}))
    with pytest.raises(ValueError, match="has shape"):
        run_file(file)
    reasons = {store.cell(cell.fingerprint).failure() for cell in cells}
    assert len(reasons) == 1 and "model.head_scores has shape [1, 2]" in reasons.pop()


def test_scores_that_do_not_fit_fail_only_the_cells_that_read_them(
    tmp_path, make_composer, model, model_folder, monkeypatch
):
    """Two files of one model in one job: one is good, the other is not."""
    store, good, bad = Store(tmp_path / "out"), tmp_path / "good.json", tmp_path / "bad.json"
    grid = [*model[:1], f"model.head_scores={tmp_path}/heads.json", "task=documents", "budget=64"]
    grid.append(f"allocator.head_scores.path={good},{bad}")
    cells = make_grid(make_composer(), [*grid, "method=sparsemm"]).cells
    (file,) = write_jobs(store, _record("one", 1.0), [cells], searched=[str(good), str(bad)])
    good.write_text((model_folder / "heads.json").read_text())
    bad.write_text(json.dumps({"format": 1, "scores": [[1.0, 2.0]]}))
    names_before = {name: names(file.parents[1]).get(name) for name in (one.fingerprint for one in cells)}
    assert not list(file.parent.glob("0.json")), "looking decides nothing"
    ran = []
    monkeypatch.setattr("sparsemm.sweep.worker.run_job", lambda path, **_: ran.append(path) or 0)
    assert run_file(file) == 1
    (entry,) = json.loads(ran[0].read_text())["cells"]
    assert entry["was"] == [cells[0].fingerprint]
    assert store.cell(cells[0].fingerprint).failure() is None
    assert "has shape [1, 2]" in store.cell(cells[1].fingerprint).failure()
    known = {cells[0].fingerprint: entry["fingerprint"]}
    assert names(file.parents[1]) == known
    assert names_before == known | {cells[1].fingerprint: None}


def test_the_difference_to_the_commit_is_kept_with_the_sweep(tmp_path, monkeypatch):
    monkeypatch.setattr("sparsemm.sweep.jobs.git_diff", lambda: "+ a line\n")
    store = Store(tmp_path)
    write_jobs(store, replace(_record("changed", 1.0), git={"commit": "ab", "diff": "12"}), [])
    write_jobs(store, replace(_record("clean", 1.0), git={"commit": "ab", "diff": ""}), [])
    assert (store.sweeps / "changed" / "code.diff").read_text() == "+ a line\n"
    assert not (store.sweeps / "clean" / "code.diff").exists()
