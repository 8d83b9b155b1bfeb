"""The longer half of the cluster tests: `make test-cluster`. Every one ends with the undisturbed table."""

import json
import subprocess
import time

import pytest

from sparsemm.results.leases import STALE_S

ONE_BY_ONE = "engine.batch_prompts=1"  # what is lost with a killed worker is one sample of each cell
BROKEN = """
from dataclasses import dataclass
from pathlib import Path

from sparsemm.methods.base import Scorer


@dataclass(frozen=True, kw_only=True)
class Raises(Scorer):
    def scores(self, queries, keys, scaling, candidates):
        if not (Path(__file__).parent / "repaired").exists():
            raise RuntimeError("this scorer is broken")
        return keys[:, :candidates, 0].float()
"""


@pytest.fixture
def ends_as(lab, undisturbed, same_table):
    """The store is complete, and equal to that of an undisturbed run with these settings."""

    def check(*arguments, lost=0):
        assert lab.answered_twice() <= lost
        lab.call("report", *lab.grid, *arguments)
        same_table(lab, undisturbed(*arguments))

    return check


def test_the_quickstart_grid_on_two_nodes(cluster, make_lab):
    grid = ["+experiment=quickstart", "task.limit=40", "engine.threads=1"]
    here, there = make_lab("here"), make_lab("there")
    here.call("run", *grid)
    there.call("run", *grid, "shards=2", *there.slurm, "hydra.launcher.cpus=2", "hydra.launcher.wait=true")
    assert there.outcome() == here.outcome()
    assert here.table() == there.table()


def test_a_cell_set_is_shared_by_the_workers_of_one_job(lab, ends_as):
    job = lab.submit("hydra.launcher.workers=2", ONE_BY_ONE)
    lab.finish()
    assert lab.states(job) == {"COMPLETED"}
    assert len(list(lab.store.workers.glob("*.json"))) >= 2
    ends_as()


def test_one_job_cancelled_by_scancel_and_retried(lab, ends_as):
    two = "task=documents,charts"
    job = lab.submit(two)
    lab.freeze()
    lab.cluster.ask("scancel", f"{job}_0")
    lab.thaw()
    lab.finish()
    assert lab.states(job) == {"CANCELLED", "COMPLETED"}
    assert f"SLURM {job}_0: cancelled" in lab.call("status", code=1)
    assert "7 cells to run again" in lab.call("retry", *lab.slurm)
    lab.finish()
    ends_as(two)


def test_an_array_cancelled_before_it_started_is_submitted_again(lab):
    two, held = "task=documents,charts", "hydra.launcher.sbatch={hold: true}"
    lab.submit(two, held)
    lab.call("cancel")
    assert "14 failed" in lab.call("status", code=1)
    assert "2 jobs" in lab.call("run", *lab.grid, two, *lab.slurm, held)
    assert "14 pending" in lab.call("status", *lab.grid, two)


def test_three_preemptions_during_a_cell(lab, ends_as):
    job = lab.submit()
    for number in range(1, 4):
        seen = lab.lines()
        lab.until(lambda seen=seen: lab.lines() > seen + 14)
        lab.cluster.ask("scancel", "--signal=USR2", job)
        lab.until(lambda number=number: lab.restarts(job) == [number])
    lab.finish()
    assert (lab.states(job), lab.restarts(job)) == ({"COMPLETED"}, [3])
    ends_as()


def test_a_time_limit_shorter_than_the_work(lab, ends_as):
    job = lab.submit("hydra.launcher.time_min=1", "hydra.launcher.signal_s=30")
    lab.freeze()
    lab.until(lambda: lab.used_s(job) > 45 or lab.restarts(job) != [0])
    lab.thaw()
    lab.finish()
    assert "this job is timed-out" in lab.logs()
    assert lab.states(job) == {"COMPLETED"} and lab.restarts(job)[0] >= 1
    ends_as()


def test_a_job_that_slurm_itself_requeues(lab, ends_as):
    job = lab.submit(ONE_BY_ONE)
    lab.until(lambda: lab.lines() > 12)
    lab.cluster.ask("scontrol", "requeue", job)
    lab.until(lambda: lab.restarts(job) == [1])
    lab.finish()
    assert lab.states(job) == {"COMPLETED"}
    ends_as(lost=1)


def test_a_node_that_is_lost_with_its_job(lab, ends_as):
    job = lab.submit(ONE_BY_ONE)
    lab.until(lambda: lab.lines() > 12)
    node = lab.cluster.ask("squeue", "-h", "-j", job, "-o", "%N").strip()
    lab.cluster.kill_node(node)
    lab.until(lambda: lab.restarts(job) == [1])
    lab.finish()
    lab.cluster.start_node(node)
    lab.cluster.wait_for_nodes()
    assert lab.states(job) == {"COMPLETED"}
    ends_as(lost=1)


def test_the_submitting_process_killed_right_after_it_submitted(lab, ends_as):
    process = subprocess.Popen(
        lab.command("run", *lab.grid, *lab.slurm, "hydra.launcher.wait=true"),
        env=lab.env, cwd=lab.output.parent, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith("SLURM "):
            break
    process.kill()
    process.wait()
    assert "7 cells in SLURM's queue already" in lab.call("run", *lab.grid, *lab.slurm)
    lab.finish()
    assert "all finished" in lab.call("run", *lab.grid, *lab.slurm)
    ends_as()


def test_a_stopped_worker_loses_its_cells_and_ends_when_it_goes_on(lab, ends_as):
    job = lab.submit(ONE_BY_ONE)
    lab.freeze()
    began = time.monotonic()
    lab.call("run", *lab.grid, ONE_BY_ONE)
    assert time.monotonic() - began > STALE_S / 2, "the other worker waited for the silence"
    lab.thaw()
    lab.finish()
    assert lab.states(job) == {"COMPLETED"}
    ends_as(lost=1)


def test_a_cell_that_raises_among_good_ones(lab, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text(BROKEN)
    (tmp_path / "conf" / "scorer").mkdir(parents=True)
    (tmp_path / "conf" / "scorer" / "broken.yaml").write_text("_target_: broken.Raises\n")
    monkeypatch.syspath_prepend(tmp_path)
    lab.env["PYTHONPATH"] = str(tmp_path)
    grid = [
        *(one for one in lab.grid if not one.startswith(("method=", "budget="))),
        f"hydra.searchpath=[file://{tmp_path}/conf]",
        "method=snapkv", "budget=8,12",
    ]  # fmt: skip
    lab.grid = [*grid, "scorer=window_attention,broken"]
    job = lab.submit()
    lab.finish()
    assert lab.states(job) == {"FAILED"}
    shown = lab.call("status", *lab.grid, code=1)
    assert "2 done, 2 failed" in shown and "RuntimeError: this scorer is broken" in shown
    (tmp_path / "repaired").touch()
    assert "2 cells to run again" in lab.call("retry", *lab.grid, *lab.slurm)
    lab.finish()
    assert "4 done" in lab.call("status", *lab.grid)


def test_a_controller_whose_job_ids_begin_again(lab, ends_as):
    first = lab.submit()
    lab.freeze()
    lab.call("cancel")
    lab.finish()
    lab.cluster.stop_controller()
    lab.cluster.start_controller(clean=True)
    lab.cluster.wait_for_nodes()
    other = 0
    while other < int(first):  # until the id belongs to a job of somebody else
        other = int(lab.cluster.ask("sbatch", "--parsable", "--wrap=true", "--output=/dev/null"))
    lab.until(lambda: lab.states(first) == {"COMPLETED"})
    lab.until(lambda: f"SLURM {first}: unknown to SLURM" in lab.call("status", code=None))
    assert "7 cells to run again" in lab.call("retry", *lab.slurm)
    lab.finish()
    ends_as()


def test_an_output_folder_with_spaces(lab, make_lab, undisturbed, same_table):
    spaced = make_lab("a folder with spaces/and one more")
    job = spaced.submit()
    spaced.finish()
    assert spaced.states(job) == {"COMPLETED"}
    assert spaced.logs()
    spaced.call("report", *spaced.grid)
    same_table(spaced, undisturbed())


def test_nodes_that_cannot_write_the_output_folder_say_so_and_the_sweep_goes_on(lab, ends_as):
    """Root may write anywhere, so a file stands where a folder should be, and the folder is away."""
    held = "hydra.launcher.sbatch={hold: true}"
    job = lab.submit(held)
    away = lab.output.with_name("away")
    lab.store.workers.touch()
    lab.cluster.ask("scontrol", "release", job)
    lab.finish()
    lab.store.workers.unlink()
    shown = lab.call("status", code=1)
    assert lab.states(job) == {"FAILED"} and f"SLURM {job}: failed on n" in shown
    assert "cannot write: File exists" in shown and "give another output=FOLDER" in shown
    lab.call("retry", *lab.slurm, held)
    (job,) = lab.live()
    lab.output.rename(away)
    lab.cluster.ask("scontrol", "release", job)
    lab.finish()
    away.rename(lab.output)
    shown = lab.call("status", code=1)
    assert f"SLURM {job}: failed" in shown and "if the node could not write there, give an output" in shown
    lab.call("retry", *lab.slurm)
    lab.finish()
    ends_as()


def test_the_stock_launcher_of_submitit_runs_a_plain_multirun(lab):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    stock = ["hydra/sweeper=basic", "hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=30"]
    stock += ["hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=null", "--multirun"]
    lab.call("run", *lab.grid, "task.limit=2", "method=full,sparsemm", *stock)
    assert "3 done" in lab.call("status", *lab.grid, "task.limit=2", "method=full,sparsemm")


def test_the_log_and_the_beat_of_a_worker_name_its_job(lab):
    job = lab.submit()
    lab.finish()
    beats = [json.loads(path.read_text()) for path in lab.store.workers.glob("*.json")]
    assert [beat["job_id"] for beat in beats] == [job]
    assert f"job_id={job}" in lab.logs()
