"""What the leases promise, tried with real processes: one owner at a time, and a loser that knows it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sparsemm.results.leases import Heartbeat, Leases, current, new_worker_id, running, workers
from sparsemm.results.store import Store

FP = "ab" + "0" * 18
PRELUDE = """
import sys, time
from pathlib import Path
from sparsemm.results.leases import *
from sparsemm.results.store import Store
store, fp = Store(Path(sys.argv[1])), sys.argv[2]
"""
# takes the cell, then writes one sample per batch until it has lost the cell
WORKER = """
leases, attempt = Leases(store, "slow", stale_s=1.0), None
with Heartbeat(store, "slow", every_s=0.05):
    assert leases.acquire(fp)
    attempt = store.cell(fp).begin_attempt("slow")
    for k in range(10_000):
        if not leases.still_mine(fp):
            print("lost", flush=True)
            break
        attempt.append([{"sample": f"s{k}", "index": k, "by": "slow"}])
        time.sleep(0.02)
"""
CONTENDER = """
leases = Leases(store, new_worker_id(), stale_s=3600)
with Heartbeat(store, leases.worker):
    print("ready", flush=True)
    moment = float(sys.stdin.readline())
    while time.time() < moment:
        pass
    print(leases.acquire(fp), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def spawn(store: Store) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PRELUDE + code, str(store.root), FP, *arguments]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for(condition: Callable[[], object], limit_s: float = 120) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def test_held_cell_is_refused_to_others_until_released(store: Store) -> None:
    with Heartbeat(store, "a"), Heartbeat(store, "b"):
        first, second = Leases(store, "a"), Leases(store, "b")
        assert first.acquire(FP) and first.acquire(FP) and not second.acquire(FP)
        assert first.still_mine(FP) and not second.still_mine(FP)
        assert running(store, [FP])[FP]["worker"] == "a"
        first.release_all()
        assert not first.still_mine(FP) and running(store, [FP]) == {}
        assert second.acquire(FP) and not first.acquire(FP)
        first.release(FP)  # a worker that lost a cell cannot give it away
        assert second.still_mine(FP)


def test_heartbeat_shows_progress_and_ends_with_its_state(store: Store) -> None:
    with pytest.raises(KeyError), Heartbeat(store, "a", job="0", job_id="17", every_s=0.01) as heartbeat:
        heartbeat.update(done=3, total=10, rate_per_s=1.5, state="running")
        wait_for(lambda: workers(store)["a"]["done"] == 3)
        seen = workers(store)["a"]
        assert (seen["job_id"], seen["total"], seen["state"], seen["pid"]) == (
            "17",
            10,
            "running",
            os.getpid(),
        )
        raise KeyError
    assert workers(store)["a"]["state"] == "failed"


def test_lease_of_a_silent_worker_goes_to_exactly_one_of_several_processes(
    store: Store, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    silent = Leases(store, "silent")
    assert silent.acquire(FP)
    lease = store.cell(FP).path / "lease-0001.json"
    content = {"worker": "silent", "since": time.time() - 7200, "released": False}
    lease.write_text(json.dumps(content))  # nobody beats for it
    for _ in range(3):
        processes = [spawn(CONTENDER) for _ in range(4)]
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * 4
        moment = time.time() + 0.05  # all of them at once, where the machine lets them
        for process in processes:
            process.stdin.write(f"{moment}\n")
            process.stdin.flush()
        answers = [process.stdout.readline().strip() for process in processes]
        assert sorted(answers) == ["False", "False", "False", "True"]
        assert not silent.still_mine(FP)
        for process in processes:
            process.kill()  # the winner is dead now: the next round takes over at once
            process.wait()
    last = current(store.cell(FP).path)
    assert last is not None and last.number == 4


def test_lease_of_a_killed_process_on_this_machine_is_free_at_once(
    store: Store, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    if not Path("/proc/self/ns/pid").exists():
        pytest.skip("no /proc: a killed process is noticed only after stale_s")
    process = spawn(WORKER)
    wait_for(lambda: store.cell(FP).samples().records)
    assert not Leases(store, "next", stale_s=3600).acquire(FP)
    process.kill()  # not yet waited for: a zombie must count as dead
    wait_for(lambda: Leases(store, "next", stale_s=3600).acquire(FP))
    assert store.cell(FP).samples().unreadable == 0


def test_stopped_worker_that_wakes_after_a_takeover_stops_and_no_sample_is_lost_or_doubled(
    store: Store, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    process = spawn(WORKER)
    cell = store.cell(FP)
    wait_for(lambda: len(cell.samples().records) >= 3)
    assert not Leases(store, "taker", stale_s=3600).acquire(FP)
    taker = Leases(store, "taker", stale_s=1.0)
    os.kill(process.pid, signal.SIGSTOP)
    wait_for(lambda: taker.acquire(FP))
    before = cell.samples().records
    last = len(before) + 20
    attempt = cell.begin_attempt("taker")
    attempt.append([{"sample": f"s{k}", "index": k, "by": "taker"} for k in range(len(before), last)])
    os.kill(process.pid, signal.SIGCONT)
    out, _ = process.communicate(timeout=120)
    assert out.strip() == "lost"
    assert taker.still_mine(FP)
    merged = cell.samples()
    assert list(merged.records) == [f"s{k}" for k in range(last)]
    # the woken worker may have finished the batch that it was in, and no more
    assert len(before) <= sum(r["by"] == "slow" for r in merged.records.values()) <= len(before) + 1


def test_lease_whose_writer_died_before_its_name_was_written_goes_stale(store: Store) -> None:
    folder = store.cell(FP).path
    folder.mkdir(parents=True)
    lease = folder / "lease-0001.json"
    lease.touch()
    with Heartbeat(store, "a"):
        assert not Leases(store, "a").acquire(FP)
        assert running(store, [FP]) == {}, "nobody is known to run it"
        found = current(folder)
        assert found is not None and (found.number, found.worker, found.released) == (1, "", False)
        os.utime(lease, (time.time() - 120,) * 2)
        assert Leases(store, "a").acquire(FP)
        assert running(store, [FP])[FP]["worker"] == "a"


def test_worker_ids_differ_between_calls() -> None:
    assert new_worker_id() != new_worker_id()
