"""What is made of the answers of squeue and sacct."""

import json
import time

import pytest

from sparsemm import cli
from sparsemm.results.leases import Heartbeat, Leases
from sparsemm.results.store import Store
from sparsemm.sweep.code import changes
from sparsemm.sweep.status import read_status, render
from sparsemm.sweep.submission import Job, Part, Submission
from sparsemm.sweep.submitted import Submissions

LABEL = {"model": "tiny", "task": "documents", "method": "snapkv", "budget": 8}


def test_a_look_at_1000_jobs_is_one_squeue_and_one_sacct(tmp_path, fake, row):
    root, store = fake(), Store(tmp_path / "out")
    jobs = tuple(Job((), (f"{number:020x}",)) for number in range(1000))
    parts = tuple(Part(f"s.{n}", tmp_path / str(n), jobs[n * 400 : n * 400 + 400], str(n)) for n in range(3))
    Submission(store.sweeps / "s", time.time() - 100, parts).write()
    (root / "queue").write_text(row("0_3", "s.0", "RUNNING", "None", "n7", 2) + row("1_0", "s.1", "PENDING"))
    (root / "accounts").write_text(
        "0_4|s.0|OUT_OF_MEMORY|n8\n0_5|s.0|CANCELLED by 12|n8\n2_[0-99]|s.2|PENDING|\n"
    )
    labels = {job.cells[0]: LABEL | {"budget": n} for n, job in enumerate(jobs)}
    status = read_status(store, labels)
    assert [line.split()[0] for line in (root / "asked").read_text().splitlines()] == ["squeue", "sacct"]
    words = [status.states[f"{n:020x}"].reason for n in (4, 5, 6)]
    assert words == [f"its SLURM job is {word}" for word in ("out_of_memory", "cancelled", "gone")]
    text = render("s", labels, status)
    assert "SLURM 0_3: running on n7, preempted or timed out 2 times" in text
    assert "SLURM 1: 1 job pending (Resources)" in text
    assert len(text.splitlines()) < 200


def test_a_failed_job_shows_the_end_of_its_log_and_where_it_is(tmp_path, fake, row):
    root, store, folder = fake(), Store(tmp_path / "out"), tmp_path / "logs"
    Submission(
        store.sweeps / "s", time.time(), (Part("s.0", folder, (Job((), ("ab" * 10,)),), "77"),)
    ).write()
    (root / "queue").write_text(row("77", "s.0", "FAILED", "NonZeroExitCode", "n1"))
    labels = {"ab" * 10: LABEL}
    assert f"No log at {folder}/77_0_log.out: if the node could not write" in render(
        "s", labels, read_status(store, labels)
    )
    folder.mkdir()
    (folder / "77_0_log.out").write_text("".join(f"line {n}\n" for n in range(100)))
    text = render("s", labels, read_status(store, labels))
    assert (
        f"SLURM 77: failed on n1, log {folder}/77_0_log.out\n    line 94\n" in text and "line 93" not in text
    )


def test_an_id_that_came_again_is_another_job(tmp_path, fake, row):
    root, store = fake(), Store(tmp_path / "out")
    Submission(store.sweeps / "s", 0.0, (Part("s.0", tmp_path, (Job((), ("ab" * 10,)),), "77"),)).write()
    (root / "queue").write_text(row("77", "another.0", "COMPLETED"))
    (job,) = Submissions(store).jobs(["ab" * 10])["ab" * 10]
    assert job.state == "GONE"


def test_a_submission_that_was_killed_before_sbatch_answered_is_found_by_name(tmp_path, fake, row):
    root, store = fake(), Store(tmp_path / "out")
    Submission(store.sweeps / "s", 0.0, (Part("s.0", tmp_path, (Job((), ("ab" * 10,)),)),)).write()
    assert not Submissions(store).jobs(["ab" * 10])["ab" * 10][0].broken, "it was never submitted"
    (root / "queue").write_text(row("78", "s.0", "PENDING"))
    (job,) = Submissions(store).jobs(["ab" * 10])["ab" * 10]
    assert (job.id, job.live) == ("78", True)


def test_slurm_that_does_not_answer_is_said_and_the_store_still_shown(tmp_path, fake):
    root, store = fake(), Store(tmp_path / "out")
    Submission(store.sweeps / "s", 0.0, (Part("s.0", tmp_path, (Job((), ("ab" * 10,)),), "77"),)).write()
    (root / "squeue").write_text("#!/bin/sh\necho slurm_load_jobs error: Unable to contact >&2; exit 1\n")
    text = render("s", {"ab" * 10: LABEL}, read_status(store, {"ab" * 10: LABEL}))
    assert "1 pending" in text and "SLURM does not answer: slurm_load_jobs error: Unable to contact" in text


def test_a_cell_that_waits_in_slurm_is_awaited_and_one_that_runs_is_running(tmp_path, fake, row):
    root, store, names = fake(), Store(tmp_path / "out"), ["ab" * 10, "cd" * 10]
    jobs = tuple(Job((), (name,)) for name in names)
    Submission(store.sweeps / "s", time.time(), (Part("s.0", tmp_path, jobs, "7"),)).write()
    (root / "queue").write_text(row("7_0", "s.0", "RUNNING", "None", "n1") + row("7_1", "s.0", "PENDING"))
    with Heartbeat(store, "w", job="s/0", job_id="7_0") as beat:
        beat.update(done=1, total=4, state="running")
        beat.beat()
        assert Leases(store, "w").acquire(names[0])
        status = read_status(store, dict.fromkeys(names, LABEL))
    assert [state.word for state in status.states.values()] == ["running", "pending"]
    assert status.awaited and not status.ended


def test_changed_code_is_put_into_words():
    then = {"commit": "a" * 40, "dirty": False, "diff": ""}
    assert changes(then, then) == ""
    assert "commit aaaaaaaaaa was submitted, bbbbbbbbbb" in changes(then, then | {"commit": "b" * 40})
    assert "differ otherwise" in changes(then, then | {"diff": "12"})
    assert changes({"commit": None}, then) == ""


def test_a_sweep_whose_code_changed_since_its_submission_warns(tmp_path, fake, row, monkeypatch, capsys):
    root, grid = fake(), ["method=full", "hydra/launcher=slurm", "engine.device=cpu", f"output={tmp_path}"]
    then = {"commit": "a" * 40, "dirty": False, "diff": ""}
    monkeypatch.setattr("sparsemm.sweep.starting.git_state", lambda: then)
    monkeypatch.setattr("sparsemm.sweep.launching.git_state", lambda: {**then, "commit": "b" * 40})
    assert cli.run(["run", *grid]) == 0
    (folder,) = tmp_path.glob("sweeps/*")
    (root / "queue").write_text(row("1000", f"{folder.name}.0", "PENDING"))
    capsys.readouterr()
    assert cli.run(["status", f"output={tmp_path}"]) == 0
    assert (
        "The code changed since submission: commit aaaaaaaaaa was submitted, bbb" in capsys.readouterr().out
    )
    assert json.loads((folder / "jobs" / "0.json").read_text())["git"] == then


@pytest.mark.parametrize(("place", "others"), [("queue", "7"), ("queue", "7_[1-2]"), ("accounts", "7_[1-2]")])
def test_elements_that_were_cancelled_before_they_started_have_one_row(tmp_path, fake, row, place, others):
    root, store, names = fake(), Store(tmp_path), [f"{number:020x}" for number in range(3)]
    jobs = tuple(Job((), (name,)) for name in names)
    Submission(store.sweeps / "s", time.time(), (Part("s.0", tmp_path, jobs, "7"),)).write()
    (root / "queue").write_text(row("7_0", "s.0", "COMPLETED"))
    with (root / place).open("a") as file:
        file.write(row(others, "s.0", "CANCELLED") if place == "queue" else f"{others}|s.0|CANCELLED by 0|\n")
    found = Submissions(store).jobs(names)
    assert [found[name][0].state for name in names] == ["COMPLETED", "CANCELLED", "CANCELLED"]
