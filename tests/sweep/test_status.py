import shutil
import sys

import pytest

from sparsemm.results.leases import Heartbeat, Leases
from sparsemm.results.store import Store
from sparsemm.sweep import status
from sparsemm.sweep.grid import make_grid
from sparsemm.sweep.jobs import write_job
from sparsemm.sweep.plan import describe, duration
from sparsemm.sweep.status import program, read_status, render, show

LABEL = {"model": "tiny", "task": "documents", "method": "snapkv", "scorer": "recent", "allocator": "uniform"}
LABEL |= {"budget": 8, "rho": None, "seed": None, "rounding": "exact", "window": 4}
GROUP = {"wall_s": 5.0, "peak_memory_bytes": 1, "rows": 3, "cells": 2, "samples_timed": 10}


def _finish(store: Store, fingerprint: str, label=LABEL, score=0.5) -> None:
    store.cell(fingerprint).begin_attempt("w").close()
    store.cell(fingerprint).write_result({"label": label, "score": score, "group": GROUP})


def test_each_cell_is_done_running_failed_or_pending(tmp_path):
    store = Store(tmp_path)
    labels = {f"{n:020x}": LABEL | {"budget": n} for n in (8, 12, 16, 24)}
    done, failed, running, _ = labels
    _finish(store, done, score=0.875)
    store.cell(failed).begin_attempt("w").close()
    store.cell(failed).write_failure("image 3: cannot be read")
    with Heartbeat(store, "worker-1") as beat:
        beat.update(done=30, total=120, rate_per_s=1.5, state="running")
        beat.beat()
        assert Leases(store, "worker-1").acquire(running)
        found = read_status(store, labels)
        text = render("mine", labels, found)
    assert [state.word for state in found.states.values()] == ["done", "failed", "running", "pending"]
    assert not found.ended
    assert text.splitlines()[0] == "mine: 4 cells: 1 done, 1 running, 1 failed, 1 pending"
    assert text.splitlines()[2].split() == ["snapkv", "0.875", "failed", "25%", "-"]
    assert "worker worker-1: 30 of 120 samples, 1.5/s, time left: about 60 s" in text
    assert "failed: image 3: cannot be read (in 1 cells, first: model=tiny" in text


def test_watching_stops_when_nothing_more_will_happen(tmp_path, capsys):
    store = Store(tmp_path)
    _finish(store, "ab" * 10)
    show(store, "mine", {"ab" * 10: LABEL}, watch=True)
    assert "1 done" in capsys.readouterr().out


@pytest.mark.parametrize("state", ["failed", "pending", "nameless lease"])
def test_watching_stops_when_no_worker_is_left(tmp_path, capsys, monkeypatch, state):
    monkeypatch.setattr(status, "IDLE_S", 0.05)
    monkeypatch.setattr(status, "REFRESH_S", 0.01)
    store, labels = Store(tmp_path), {"ab" * 10: LABEL, "cd" * 10: LABEL | {"budget": 9}}
    _finish(store, "ab" * 10)
    cell = store.cell("cd" * 10)
    cell.begin_attempt("w").close()
    if state == "failed":
        cell.write_failure("no such font")
    if state == "nameless lease":
        (cell.path / "lease-0001.json").touch()
    show(store, "mine", labels, watch=True)
    word = "failed" if state == "failed" else "pending"
    out = capsys.readouterr().out
    assert f"No worker runs: 1 {word}. Run the sweep's command again" in out
    assert ("waits in a queue" in out) == (word == "pending")


def test_watching_goes_on_while_a_worker_starts_or_waits(tmp_path, make_composer, model):
    store = Store(tmp_path)
    cells = make_grid(make_composer(), [*model, "method=snapkv", "task=documents,charts"]).cells
    first, second = ({cell.fingerprint: cell.label} for cell in cells)
    write_job(store, "s", 0, cells[:1], {})
    write_job(store, "s", 1, cells[1:], {})
    with Heartbeat(store, "worker-1", job="s/0"):
        assert [read_status(store, labels).awaited for labels in (first, second)] == [True, True]
        assert not read_status(store, {"ab" * 10: LABEL}).awaited, "another grid's worker"
        store.cell(cells[0].fingerprint).write_failure("no such font")
        assert not read_status(store, first).ended, "a failed cell is tried again"
    assert not read_status(store, second).awaited
    assert read_status(store, first).ended


def test_a_row_says_what_tells_it_from_others_of_its_method(tmp_path):
    labels = {f"{n:020x}": LABEL | {"method": "random", "seed": n} for n in (0, 1)} | {"ff" * 10: LABEL}
    rows = render("mine", labels, read_status(Store(tmp_path), labels)).splitlines()[2:]
    assert [row.rstrip(" -").strip() for row in rows] == ["random seed=0", "random seed=1", "snapkv"]


def test_a_large_grid_is_cut_to_a_screen(tmp_path):
    labels = {f"{n:020x}": LABEL | {"rho": n / 100} for n in range(100)}
    lines = render("mine", labels, read_status(Store(tmp_path), labels)).splitlines()
    assert len(lines) == 63
    assert "and 40 more rows" in lines[-1]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "unknown"), (0.2, "about 1 s"), (600, "about 10 min"), (7200, "about 2.0 h")],
)
def test_a_duration_is_said_in_a_fitting_unit(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("called", "found", "name"),
    [
        ("/somewhere/sparsemm", "/usr/bin/sparsemm", "sparsemm"),
        ("{here}/.venv/bin/sparsemm", None, ".venv/bin/sparsemm"),
        (".venv/bin/sparsemm", None, ".venv/bin/sparsemm"),
        ("/else where/sparsemm", None, "'/else where/sparsemm'"),
        ("{here}/sparsemm/cli.py", None, f"{sys.executable} -m sparsemm.cli"),
    ],
)
def test_the_program_has_a_name_that_works_when_pasted(tmp_path, monkeypatch, called, found, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda _: found)
    monkeypatch.setattr(sys, "argv", [called.format(here=tmp_path), "run"])
    assert program() == name


def test_a_plan_knows_the_time_only_where_the_store_has_measured(tmp_path, make_composer, model):
    store = Store(tmp_path)
    arguments = [*model, "method=snapkv", "budget=40,50,60,70", "task=documents,charts", "task.limit=20"]
    cells = make_grid(make_composer(), arguments).cells
    assert "8 cells, 0 finished, 8 to run in 2 jobs" in describe(store, cells, 8)
    _finish(store, cells[0].fingerprint, cells[0].label)
    text = describe(store, cells, 16).splitlines()
    assert (
        text[0] == "8 cells (16 combinations; the others are the same cells), 1 finished, 7 to run in 2 jobs"
    )
    assert {line.partition(": ")[2] for line in text[1:3]} == {
        "tiny documents, 3 cells, about 30 s",  # 40 samples of 0.5 s, 3 cells for the 2 that were measured
        "tiny charts, 4 cells, unknown",
    }
    assert text[3].endswith("unknown")


def test_a_newer_result_of_another_grid_does_not_stop_a_plan(tmp_path, make_composer, model):
    store = Store(tmp_path)
    cells = make_grid(make_composer(), [*model, "method=snapkv", "budget=40"]).cells
    store.cell("ab" * 10).write_result({"label": LABEL, "group": GROUP, "format": 99})
    assert "1 cell, 0 finished" in describe(store, cells, 1)
    with pytest.raises(ValueError, match="format=99"):
        store.results()
