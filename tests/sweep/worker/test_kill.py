"""Workers that are killed, stopped and woken, or that meet: no sample is lost, doubled or changed."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from sparsemm.results.store import Store

LONG = "task.limit=24"  # pages, for tests in which two workers must meet


def finished(root: Path) -> int:
    return len(list(root.glob("cells/*/*/result.json")))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_killed_at_any_moment_and_run_again_equals_undisturbed(
    tmp_path, dtype, undisturbed, make_job, start, look
):
    expected = look(undisturbed(dtype))
    job = make_job(tmp_path, f"model.dtype={dtype}")
    began = time.monotonic()
    assert start(make_job(tmp_path / "timed", f"model.dtype={dtype}")).wait() == 0
    whole_s = time.monotonic() - began
    moments = [random.uniform(0, whole_s) for _ in range(4)]
    for moment in moments:
        worker = start(job)
        time.sleep(moment)
        worker.kill()
    assert start(job).wait() == 0
    assert look(tmp_path) == expected, f"killed after {moments} s"


def test_killed_after_every_batch_equals_undisturbed(
    tmp_path, undisturbed, make_job, start, until, look, count_lines
):
    """Kills are aimed: as soon as a line is written, then while results are published."""
    job = make_job(tmp_path)
    for _ in range(5):
        before = count_lines(tmp_path)
        worker = start(job, pause_at=before + 1)
        until(lambda before=before: count_lines(tmp_path) > before, "a sample")
        worker.kill()
    worker = start(job)
    until(lambda: finished(tmp_path), "a result")
    worker.kill()
    assert start(job).wait() == 0
    assert look(tmp_path) == look(undisturbed("float32"))


@pytest.mark.parametrize("woken", ["while the other works", "after the other has ended"])
def test_a_worker_that_is_stopped_and_woken_loses_and_doubles_nothing(
    tmp_path, make_job, start, until, look, count_lines, woken
):
    job, calm = make_job(tmp_path / "store", LONG), make_job(tmp_path / "calm", LONG)
    root, stale_s = tmp_path / "store", 1.0
    assert start(calm).wait() == 0
    first = start(job, stale_s, pause_at=200)
    until(lambda: count_lines(root) > 30, "the first worker's samples")
    os.kill(first.pid, signal.SIGSTOP)
    first.go_on()
    written = count_lines(root)
    second = start(job, stale_s, pause_at=written + 31)
    if woken == "while the other works":
        until(lambda: count_lines(root) > written + 30, "the second worker's samples")
    second.go_on()
    if woken == "after the other has ended":
        assert second.wait() == 0
    os.kill(first.pid, signal.SIGCONT)
    assert (first.wait(), second.wait()) == (0, 0)
    assert look(root) == look(tmp_path / "calm")
    for result in Store(root).results():
        assert result["samples"] == 48


def test_two_workers_on_one_sweep_share_it_without_doing_anything_twice(
    tmp_path, make_job, start, until, look, count_lines
):
    job, calm = make_job(tmp_path / "store", LONG), make_job(tmp_path / "calm", LONG)
    root = tmp_path / "store"
    assert start(calm).wait() == 0
    first = start(job, pause_at=11)
    until(lambda: count_lines(root) > 10, "the first worker's samples")
    second = start(job)
    until(lambda: "7 cells are run by" in second.said(), "the second worker to see the first")
    first.go_on()
    assert (first.wait(), second.wait()) == (0, 0)
    assert look(root) == look(tmp_path / "calm")
    assert count_lines(root) == 7 * (48 + 1), "one file with every sample once and its header"


def test_two_workers_that_start_at_once_share_the_cells(tmp_path, undisturbed, make_job, start, look):
    job = make_job(tmp_path)
    workers = [start(job), start(job)]
    assert [worker.wait() for worker in workers] == [0, 0]
    assert look(tmp_path) == look(undisturbed("float32"))
    store = Store(tmp_path)
    assert all(store.cell(name).samples().attempts == 1 for name in store.fingerprints())
