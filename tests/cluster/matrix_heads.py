"""Head searches in front of the cells that wait for their scores, on a real SLURM: `make test-cluster`."""

import json
import re

import pytest

SEARCHED = ["method=full,sparsemm", "budget=8,12", "method.window=4", "task.limit=4", "engine.threads=1"]


@pytest.fixture
def searched(lab, tmp_path):
    """The overrides of cells that lack their head scores, and where these will be."""
    scores = tmp_path / "heads" / "found.json"
    lab.grid = [f"model.head_scores={scores}", *SEARCHED, "find_heads=true", "samples=6"]
    return scores


def test_cells_wait_in_the_queue_for_the_head_search_in_front_of_them(lab, make_lab, searched, same_table):
    said = lab.call("run", *lab.grid, *lab.slurm, "shards=2")
    search, cells = re.findall(
        r"^SLURM (\d+): (?:head search, )?2 jobs(?:, after (\d+))?", said, re.MULTILINE
    )
    assert cells[1] == search[0] and not searched.exists(), "it returned before anything was found"
    assert "3 cells in SLURM's queue already" in lab.call("run", *lab.grid, *lab.slurm, "shards=2")
    lab.until(lambda: "(head search): running on" in lab.call("status"))
    lab.finish()
    assert lab.states(search[0]) == lab.states(cells[0]) == {"COMPLETED"}
    assert "3 done" in lab.call("status") and "3 done" in lab.call("status", *lab.grid)
    assert "all finished" in lab.call("run", *lab.grid, *lab.slurm)
    here = make_lab("here")
    here.call("run", *lab.grid)
    assert lab.outcome() == here.outcome()


def test_a_head_search_that_fails_cancels_the_cells_behind_it_until_it_is_retried(lab, searched):
    folder = searched.with_suffix("")
    folder.mkdir(parents=True)
    (folder / "samples.jsonl").write_text('{"another": "search"}\n')
    lab.call("run", *lab.grid, *lab.slurm)
    lab.finish()
    shown = lab.call("status", code=1)
    assert "3 failed" in shown and "failed: the head search in front of it is failed" in shown
    assert "samples of another search" in shown and "cancelled before it started" in shown
    (folder / "samples.jsonl").unlink()
    assert "3 cells to run again" in lab.call("retry", *lab.slurm)
    lab.finish()
    assert "3 done" in lab.call("status", *lab.grid)


def test_a_preempted_head_search_of_two_workers_goes_on(lab, searched):
    pages = ("samples=20", "shards=2", "hydra.launcher.workers=2")
    job = lab.submit(*pages)
    samples = searched.with_suffix("")
    lab.until(lambda: sum(one.read_bytes().count(b"\n") for one in samples.glob("*.jsonl")) > 5)
    lab.cluster.ask("scancel", "--signal=USR2", job)
    lab.until(lambda: lab.restarts(job) == [1])
    lab.finish()
    assert lab.states(job) == {"COMPLETED"}
    found = [json.loads(line) for one in samples.glob("*.jsonl") for line in one.read_text().splitlines()[1:]]
    assert sorted(one["index"] for one in found) == list(range(20)), "no image was read twice"
    assert "3 done" in lab.call("status", *lab.grid, *pages[:2])


def test_a_command_that_waits_searches_first_and_submits_the_cells_then(lab, searched):
    said = lab.call("run", *lab.grid, *lab.slurm, "hydra.launcher.wait=true", "hydra.launcher.poll_s=0.5")
    assert searched.is_file() and said.count("SLURM ") == 2 and ", after" not in said
    assert "3 done" in lab.call("status", *lab.grid)
