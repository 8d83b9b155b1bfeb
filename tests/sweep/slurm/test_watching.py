"""What is made of the answers of squeue and sacct."""

import json
import time
from types import SimpleNamespace

import pytest

from sparsemm import cli
from sparsemm.results.leases import Heartbeat, Leases
from sparsemm.results.store import Store
from sparsemm.sweep import slurm
from sparsemm.sweep.again import cancel, to_retry
from sparsemm.sweep.code import changes
from sparsemm.sweep.errors import UnusableConfiguration
from sparsemm.sweep.jobs import last_sweep
from sparsemm.sweep.status import POLITE_S, REFRESH_S, read_status, render, show
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
    assert "SLURM 0_3: running on n7, requeued 2 times (preempted, " in text
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


@pytest.mark.parametrize("how", ["silent", "absent"])
def test_what_slurm_does_not_tell_is_neither_retried_nor_left_unsaid(tmp_path, fake, how, monkeypatch):
    root, store, labels = fake(), Store(tmp_path / "out"), {"ab" * 10: LABEL}
    Submission(store.sweeps / "s", 0.0, (Part("s.0", tmp_path, (Job((), ("ab" * 10,)),), "77"),)).write()
    monkeypatch.setattr(slurm, "PATIENCE_S", 0.2)
    (root / "squeue").write_text("#!/bin/sh\nexec sleep 5\n")
    if how == "absent":
        monkeypatch.setenv("PATH", str(tmp_path))
    status = read_status(store, labels)
    words = {"silent": "squeue: no answer within 0 s", "absent": "there is no squeue on this machine's PATH"}
    assert f"SLURM does not answer: {words[how]}" in render("s", labels, status)
    assert status.awaited == (how == "silent"), "a watch goes on while the controller restarts"
    if how == "absent":
        assert to_retry(store, labels, True) == (["ab" * 10], ""), "a workstation that reads the same disk"
        return
    with pytest.raises(UnusableConfiguration, match="retry: SLURM does not answer"):
        to_retry(store, labels, True)


def test_what_was_cancelled_is_run_again_though_slurm_is_still_ending_it(tmp_path, fake, row, capsys):
    root, store, here = fake(), Store(tmp_path / "out"), f"output={tmp_path / 'out'}"
    sent = ["method=full", "task.limit=1", "engine.device=cpu", "hydra/launcher=slurm", here]
    assert cli.run(["run", *sent]) == 0
    (folder,) = store.sweeps.iterdir()
    labels = {entry["fingerprint"]: entry["label"] for entry in last_sweep(store).cells}
    ending = row("1000", f"{folder.name}.0", "COMPLETING", "None", "n1")
    (root / "queue").write_text(ending)
    assert cli.run(["run", *sent]) == 0
    assert "SLURM 1000: just ending. If cancelled, run this again" in capsys.readouterr().out
    assert to_retry(store, labels, False) == ([], "1 pending"), "it may as well be preempted"
    (root / "scancel").write_text("#!/bin/sh\n")
    (root / "scancel").chmod(0o755)
    assert cancel(store, labels) == "cancelled 1 SLURM job: 1000"
    assert "Nothing to cancel" in cancel(store, labels)
    assert len(to_retry(store, labels, False)[0]) == 1
    (root / "queue").write_text(row("1000", f"{folder.name}.0", "PENDING", "BeginTime", "", 1))
    assert to_retry(store, labels, False) == ([], "1 pending"), "somebody requeued it"


def test_cells_that_sbatch_refused_are_named_with_the_command_that_submits_them(tmp_path, fake, capsys):
    fake()
    store, name = Store(tmp_path / "out"), "ab" * 10
    Submission(store.sweeps / "s", 0.0, (Part("s.0", tmp_path, (Job((), (name,)),)),)).write()
    show(store, "s", {name: LABEL}, watch=False)
    assert "1 cell in no queue: `" in (said := capsys.readouterr().out) and "retry all` submits" in said


def test_a_watch_is_easy_on_slurm_and_ctrl_c_ends_it_but_no_job(tmp_path, fake, row, monkeypatch, capsys):
    slept = []

    def interrupted(seconds):
        slept.append(seconds)
        raise KeyboardInterrupt

    root, store, name = fake(), Store(tmp_path), "ab" * 10
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=interrupted)  # that of this module alone
    monkeypatch.setattr("sparsemm.sweep.status.time", clock)
    show(store, "s", {name: LABEL}, watch=True)
    assert "No longer watched: what runs goes on." in capsys.readouterr().out
    Submission(store.sweeps / "s", 0.0, (Part("s.0", tmp_path, (Job((), (name,)),), "7"),)).write()
    (root / "queue").write_text(row("7", "s.0", "PENDING"))
    show(store, "s", {name: LABEL}, watch=True)
    assert slept == [REFRESH_S, POLITE_S] and POLITE_S >= 10


def test_a_full_disk_is_suspected_where_a_log_is_empty_and_memory_where_it_ran_out(tmp_path, fake, row):
    root, store, names = fake(), Store(tmp_path / "out"), ["ab" * 10, "cd" * 10]
    jobs = tuple(Job((), (name,)) for name in names)
    Submission(store.sweeps / "s", time.time(), (Part("s.0", tmp_path, jobs, "7"),)).write()
    (tmp_path / "7_0_0_log.out").touch()
    (tmp_path / "7_1_0_log.out").write_text("reading\nsubmitit WARNING - Bypassing signal SIGCONT\n")
    (root / "queue").write_text(row("7_0", "s.0", "FAILED") + row("7_1", "s.0", "OUT_OF_MEMORY", node="n1"))
    labels = dict.fromkeys(names, LABEL)
    text = render("s", labels, read_status(store, labels))
    assert "7_0_0_log.out is empty: a full disk, or" in text and "Bypassing" not in text
    assert "SLURM 7_1: out_of_memory on n1: it needs more hydra.launcher.mem_gb, log" in text


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
    assert cli.run(["run", *grid]) == 0, "a sweep of its own, which has nothing to submit"
    assert "The code changed since submission" in capsys.readouterr().out
    assert cli.run(["status", f"output={tmp_path}"]) == 0
    assert "The code changed since submission" in capsys.readouterr().out


@pytest.mark.parametrize(("place", "others"), [("queue", "7"), ("queue", "7_[1-2]"), ("accounts", "7_[1-2]")])
def test_elements_that_were_cancelled_before_they_started_have_one_row(tmp_path, fake, row, place, others):
    root, store, names = fake(), Store(tmp_path), [f"{number:020x}" for number in range(3)]
    jobs = tuple(Job((), (name,)) for name in names)
    Submission(store.sweeps / "s", time.time(), (Part("s.0", tmp_path, jobs, "7"),)).write()
    (root / "queue").write_text(row("7_0", "s.0", "COMPLETED"))
    with (root / place).open("a") as file:
        file.write(row(others, "s.0", "CANCELLED") if place == "queue" else f"{others}|s.0|CANCELLED by 0|\n")
    labels = dict.fromkeys(names, LABEL)
    assert "SLURM 7: 2 jobs cancelled before they started" in render("s", labels, read_status(store, labels))
    found = Submissions(store).jobs(names)
    assert [found[name][0].state for name in names] == ["COMPLETED", "CANCELLED", "CANCELLED"]
