import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf, open_dict

from sparsemm.results.store import Store
from sparsemm.sweep.errors import CellsFailed, UnusableConfiguration
from sparsemm.sweep.sweeper import Sweep, experiment_claim


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
        result = {
            "label": cell["label"],
            "metric": "anls",
            "score": 0.5,
            "low": 0.4,
            "high": 0.6,
            "samples": 4,
        }
        folder.write_result(result)


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
    assert "anls 0.500 (95 %: 0.400 to 0.600) on 4 samples" in capsys.readouterr().out
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
    written = capsys.readouterr().err
    assert "job 0 stopped: engine.device=cuda: there is none" in written
    assert "failed: no such font (in 1 cells" in written


def test_status_and_report_without_a_grid_are_about_the_last_sweep(make_sweep, capsys):
    make_sweep(Launcher(_finish), "method=snapkv", "budget=40").act("run")
    capsys.readouterr()
    sweep = make_sweep(Launcher())
    sweep.arguments = []
    sweep.act("status")
    assert "sweep: 1 cells: 1 done" in capsys.readouterr().out


def test_a_result_of_a_newer_version_stops_the_command(make_sweep):
    def newer(job):
        _finish(job)
        path = Store(job["store"]).cell(job["cells"][0]["fingerprint"]).path / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))

    with pytest.raises(UnusableConfiguration, match="newer"):
        make_sweep(Launcher(newer), "method=snapkv").act("run")
    with pytest.raises(UnusableConfiguration, match="newer"):
        make_sweep(Launcher(), "method=snapkv").act("plan")


def test_an_experiment_brings_its_claim(make_sweep):
    assert experiment_claim("quickstart") is not None
    assert experiment_claim("sweep") is None
