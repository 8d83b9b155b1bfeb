"""Shards: several jobs answer parts of one task, and the table is that of one job."""

import pytest

from sparsemm.results.store import Store
from sparsemm.sweep.grid import make_grid
from sparsemm.sweep.jobs import group_into_jobs, write_job
from sparsemm.sweep.worker import run_job


@pytest.fixture
def make_shards(make_composer, model, worker_settings):
    """The job files of a grid's one job, in `shards` parts."""

    def make(root, shards, *arguments):
        grid = [*model, *worker_settings, "method=full,snapkv,sparsemm,adakv", "budget=8,12", *arguments]
        (job,) = group_into_jobs(make_grid(make_composer(), grid).cells)
        return [
            write_job(Store(root), f"sweep{shards}", number, job, {}, (number, shards))
            for number in range(shards)
        ]

    return make


@pytest.mark.parametrize("shards", [2, 5])
def test_shards_one_after_the_other_equal_one_job(tmp_path, make_shards, undisturbed, look, shards):
    jobs = make_shards(tmp_path, shards)
    for number, job in enumerate(jobs):
        assert not look(tmp_path), f"{number} of {shards} shards are no result"
        assert run_job(job) == 0
    assert look(tmp_path) == look(undisturbed("float32"))


def test_shards_at_the_same_time_equal_one_job(tmp_path, make_shards, undisturbed, look, start, count_lines):
    workers = [start(job) for job in make_shards(tmp_path, 3)]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    assert look(tmp_path) == look(undisturbed("float32"))
    cells, files = len(look(tmp_path)), 3 * len(look(tmp_path))
    assert count_lines(tmp_path) == 16 * cells + files, "no sample is answered twice; a header in every file"


def test_a_killed_shard_run_again_equals_one_job(
    tmp_path, make_shards, undisturbed, look, start, until, count_lines
):
    first, second = make_shards(tmp_path, 2)
    worker = start(first, pause_at=1)
    until(lambda: count_lines(tmp_path), "a sample")
    worker.kill()
    assert run_job(second) == 0
    assert run_job(first) == 0
    assert look(tmp_path) == look(undisturbed("float32"))


def test_other_numbers_of_shards_go_on_from_each_other(tmp_path, make_shards, undisturbed, look):
    assert run_job(make_shards(tmp_path, 4)[1]) == 0
    assert run_job(make_shards(tmp_path, 1)[0]) == 0
    assert look(tmp_path) == look(undisturbed("float32"))
