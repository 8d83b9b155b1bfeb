import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf, open_dict

from sparsemm import cli
from sparsemm.results.statistics import summarise
from sparsemm.results.store import Store
from sparsemm.sweep.cells import MISSING
from sparsemm.sweep.claims import experiment_claim
from sparsemm.sweep.errors import CellsFailed, UnusableConfiguration
from sparsemm.sweep.launching import Launching
from sparsemm.sweep.starting import start_cells
from sparsemm.sweep.status import Subject
from sparsemm.sweep.sweeper import Sweep

RECORD = {"score": 0.5, "error": None, "kept_entries": 512, "kept_bytes": 4096}


class Launcher:
    """Takes jobs as a cluster does: does with each what the test wants, and returns."""

    def __init__(self, work=None):
        self.work, self.launched = work, []

    def launch(self, overrides, initial_job_idx):
        self.launched += overrides
        return [self._one(job) for job in overrides]

    def _one(self, job):
        done = JobReturn(status=JobStatus.COMPLETED)
        try:
            if self.work:
                self.work(json.loads(Path(job[0].removeprefix("job_file='").rstrip("'")).read_text()))
        except Exception as error:
            done.status, done.return_value = JobStatus.FAILED, error
        return done


@pytest.fixture
def make_sweep(make_composer, model, tmp_path, monkeypatch):
    def make(launcher, *arguments):
        monkeypatch.setattr(Plugins, "instantiate_launcher", lambda self, **_: launcher)
        composer = make_composer()
        config = OmegaConf.create(OmegaConf.to_container(composer.master, resolve=False))
        with open_dict(config):
            config.output = str(tmp_path)
        context = SimpleNamespace(config_loader=composer.loader)
        return Sweep(config, context, lambda _: 0, [*model, *arguments])

    return make


def _finish(job):
    for cell in job["cells"]:
        folder = Store(job["store"]).cell(cell["fingerprint"])
        folder.begin_attempt("w").close()
        records = [{**RECORD, "sample": f"d{n}", "document": f"d{n}"} for n in range(3)]
        records.append({**RECORD, "sample": "d3", "document": "d3", "error": "OSError: no image"})
        kept = {"entries_per_head": 64.0, "kept_share": 1.0, "full_entries": 512.0}
        result = {
            "label": cell["label"],
            "identity": cell["identity"],
            "metric": "anls",
            **summarise(records),
            **kept,
        }
        folder.write_result({**result, "provenance": {"device": "cpu"}})


def test_jobs_get_a_job_file_and_absolute_paths_and_nothing_else(make_sweep, tmp_path, capsys):
    launcher = Launcher()
    make_sweep(launcher, "method=full,snapkv", "task=documents,charts").act("run")
    assert len(launcher.launched) == 2
    for number, (job_file, folder, choice) in enumerate(launcher.launched):
        sweep = f"{tmp_path}/sweeps/sweep-"
        assert job_file.startswith(f"job_file='{sweep}") and job_file.endswith(f"/jobs/{number}.json'")
        assert folder.startswith(f"hydra.sweep.dir='{sweep}")
        assert choice == "hydra/launcher=basic"
    assert "4 cells without a result yet: submitted" in capsys.readouterr().out


def test_running_again_launches_only_what_has_no_result(make_sweep, capsys):
    first = Launcher(_finish)
    make_sweep(first, "method=snapkv").act("run")
    capsys.readouterr()
    again = Launcher(_finish)
    make_sweep(again, "method=snapkv").act("run")
    assert again.launched == []
    assert "1 cell, all finished" in capsys.readouterr().out


def test_a_failed_cell_and_a_stopped_job_are_failures(make_sweep, capsys):
    def fail(job):
        cell = Store(job["store"]).cell(job["cells"][0]["fingerprint"])
        cell.begin_attempt("w").close()
        cell.write_failure("no such font")
        raise ValueError("engine.device=cuda: there is none")

    with pytest.raises(CellsFailed, match="1 of 1 cells failed"):
        make_sweep(Launcher(fail), "method=snapkv").act("run")
    printed, written = capsys.readouterr()
    assert "retry" in printed.partition("Next:")[2]
    assert "job 0 stopped: engine.device=cuda: there is none" in written
    assert "failed: no such font (in 1 cells" in written


def test_one_cell_ends_with_its_table_as_well(make_sweep, capsys):
    make_sweep(Launcher(_finish), "method=snapkv").act("run")
    shown = capsys.readouterr().out
    assert "SnapKV at 64: 1 of 4 samples failed (" in shown
    assert "budget 64: above the prompt, nothing is compressed." in shown
    assert "Entries per head" in shown


def test_reports_of_different_grids_do_not_overwrite_each_other(make_sweep, tmp_path, capsys):
    for budget in ("40", "50"):
        make_sweep(Launcher(_finish), "method=snapkv", f"budget={budget}").act("run")
    assert len(list(tmp_path.glob("reports/sweep-*/table.md"))) == 2
    before = {path: path.read_bytes() for path in tmp_path.glob("reports/*/table.*")}
    capsys.readouterr()
    make_sweep(Launcher(), "method=snapkv", "budget=40").act("report")
    last = make_sweep(Launcher())
    last.arguments = ["watch=false"]
    last.act("report")
    assert {path: path.read_bytes() for path in tmp_path.glob("reports/*/table.*")} == before


def test_status_and_report_without_a_grid_are_about_the_last_sweep(make_sweep, capsys):
    make_sweep(Launcher(_finish), "method=snapkv", "budget=40").act("run")
    capsys.readouterr()
    sweep = make_sweep(Launcher())
    sweep.arguments = []
    sweep.act("status")
    assert ": 1 cells: 1 done" in capsys.readouterr().out


def test_a_result_of_a_newer_version_stops_the_command(make_sweep):
    def newer(job):
        _finish(job)
        path = Store(job["store"]).cell(job["cells"][0]["fingerprint"]).path / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))

    with pytest.raises(UnusableConfiguration, match="newer"):
        make_sweep(Launcher(newer), "method=snapkv").act("run")
    with pytest.raises(UnusableConfiguration, match="newer"):
        make_sweep(Launcher(), "method=snapkv").act("plan")


def test_a_file_where_the_output_folder_should_be_is_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert cli.run(["status", f"output={tmp_path}/file"]) == 2
    assert f"output={tmp_path}/file: is a file. Give a folder." in capsys.readouterr().err


def test_an_experiment_brings_its_claim(make_sweep):
    assert experiment_claim("quickstart") is not None
    assert experiment_claim("sweep") is None and experiment_claim(None) is None


def test_scores_that_come_while_a_grid_is_composed_change_no_name_behind_its_back(
    make_sweep, model_folder, tmp_path, monkeypatch
):
    """A search ends between composition and the look at what is missing: the cells are composed again."""
    scores, content = tmp_path / "late.json", (model_folder / "heads.json").read_text()
    monkeypatch.setattr(Launching, "in_queue", lambda *_: scores.write_text(content) and set())
    launcher = Launcher(_finish)
    grid = [f"model.head_scores={scores}", "method=sparsemm", "task=documents", "budget=64"]
    sweep = make_sweep(launcher, *grid)
    sweep.config.find_heads = True
    sweep.run()
    (job,) = (json.loads(path.read_text()) for path in tmp_path.glob("sweeps/*/jobs/*.json"))
    assert MISSING not in json.dumps(job) and "awaits" not in job
    assert len(launcher.launched) == 1


def test_a_cell_under_a_placeholder_that_nothing_searches_for_is_not_started(make_sweep, tmp_path):
    """As `retry` would, where a search ends between its looks."""
    launcher = Launcher()
    sweep = make_sweep(launcher, f"model.head_scores={tmp_path}/none.json", "method=sparsemm", "budget=64")
    cells = sweep.grid.cells
    with pytest.raises(UnusableConfiguration, match=r"head scores .* Run the sweep's command again"):
        start_cells(sweep.store, sweep.launching, cells, Subject("x", None, {}, []))
    assert not launcher.launched and not list(tmp_path.glob("sweeps/*"))
