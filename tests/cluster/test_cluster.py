"""Sweeps on a real SLURM of two nodes end with the table of an undisturbed run on this machine."""

import subprocess

TWO = ("task=documents,charts",)


def test_a_sweep_on_two_nodes_equals_one_here(lab, undisturbed, same_table):
    job = lab.submit(*TWO, "hydra.launcher.cpus=2")
    lab.freeze(workers=2)
    shown = lab.call("status", *lab.grid, *TWO)
    assert {f"SLURM {job}_{n}: running on n{n + 1}" for n in (0, 1)} <= set(shown.splitlines())
    lab.thaw()
    lab.finish()
    assert lab.states(job) == {"COMPLETED"}
    lab.call("report", *lab.grid, *TWO)
    same_table(lab, undisturbed(*TWO))
    again = lab.call("run", *lab.grid, *TWO, "hydra/launcher=slurm_cpu")
    assert "all finished" in again and "SLURM" not in again


def test_a_preempted_job_goes_on_after_the_last_sample(lab, undisturbed, same_table):
    job = lab.submit()
    lab.freeze()
    update = ("scontrol", "update", "nodename=n[1-2]")
    lab.cluster.ask(*update, "state=drain", "reason=test")  # what is requeued stays in the queue
    try:
        lab.cluster.ask("scancel", "--signal=USR2", job)
        lab.thaw()
        lab.until(lambda: 1 in lab.restarts(job))
        lab.until(lambda: lab.states(job) == {"PENDING"})
        shown = lab.call("status", *lab.grid)
    finally:
        lab.cluster.ask(*update, "state=resume")
    assert f"SLURM {job}: pending (" in shown and "requeued 1 time (preempted" in shown
    lab.finish()
    assert lab.states(job) == {"COMPLETED"}
    assert lab.answered_twice() == 0
    lab.call("report", *lab.grid)
    same_table(lab, undisturbed())


def test_a_cancelled_sweep_is_failed_until_it_is_retried(lab, undisturbed, same_table):
    job = lab.submit()
    lab.freeze()
    assert f"cancelled 1 SLURM job: {job}" in lab.call("cancel")
    lab.finish()
    shown = lab.call("status", code=1)
    assert "7 failed" in shown and f"SLURM {job}: cancelled" in shown and "_0_log.out" in shown
    assert "7 cells to run again" in lab.call("retry"), "without a word it goes to SLURM as before"
    lab.finish()
    assert lab.answered_twice() == 0
    lab.call("report", *lab.grid)
    same_table(lab, undisturbed())
    assert "nothing to retry" in lab.call("retry", *lab.slurm)


def test_two_submitters_whose_sweeps_overlap_share_the_work(lab, undisturbed, same_table):
    commands = [lab.command("run", *lab.grid, budget, *lab.slurm) for budget in ("budget=8,12", "budget=8")]
    both = [subprocess.Popen(one, env=lab.env, cwd=lab.output.parent, text=True) for one in commands]
    assert [one.wait() for one in both] == [0, 0]
    lab.finish()
    assert lab.answered_twice() == 0
    lab.call("report", *lab.grid)
    same_table(lab, undisturbed())


def test_sbatch_refuses_in_its_own_words(lab):
    said = lab.call("run", *lab.grid, *lab.slurm, "hydra.launcher.partition=none", code=2)
    assert "Nothing was submitted. sbatch says: invalid partition specified: none" in said
    said = lab.call("run", *lab.grid, *lab.slurm, "hydra.launcher.time_min=100000", code=2)
    assert "Requested time limit is invalid" in said
    assert not list(lab.output.glob("sweeps/*"))
