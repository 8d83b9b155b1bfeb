"""A head search in SLURM's queue and the jobs behind it: either may go without the other."""

import re

import pytest

from sparsemm import cli
from sparsemm.results.store import Store
from sparsemm.sweep.jobs import last_sweep

TASKS = ("documents", "charts")
SCANCEL = '#!/bin/sh\necho "$@" >>"{root}/cancelled"\n'


@pytest.fixture
def grid(tmp_path, model_folder):
    """A sweep of two tasks whose cells lack head scores, sent to SLURM."""
    arguments = [f"model.path={model_folder}", "model=qwen2_vl_7b", "method=sparsemm", "budget=64"]
    arguments += [f"model.head_scores={tmp_path / 'scores.json'}", "find_heads=true", "engine.device=cpu"]
    return [*arguments, "task=documents,charts", "hydra/launcher=slurm", f"output={tmp_path / 'out'}"]


def accept(root, number):
    """sbatch accepts this many submissions in all."""
    file = root / "sbatch"
    file.write_text(re.sub(r"-ge \d+", f"-ge {number}", file.read_text()))


def asked(root, number):
    return (root / "scripts" / str(number)).read_text()


def test_cells_that_were_refused_go_behind_the_search_that_was_accepted(tmp_path, fake, grid, row, capsys):
    root, store = fake(accepts=1, error="QOSMaxSubmitJobPerUserLimit"), Store(tmp_path / "out")
    assert cli.run(["run", *grid]) == 1
    assert "2 of 3 jobs were not submitted" in capsys.readouterr().err
    accept(root, 10)
    (root / "queue").write_text(row("1000", f"{last_sweep(store).id}.0", "RUNNING"))
    assert cli.run(["run", *grid]) == 0
    said = capsys.readouterr().out
    assert (
        "SLURM 1000: head search, in the queue already" in said and "SLURM 1002: 2 jobs, after 1000" in said
    )
    assert "--dependency=afterok:1000\n" in asked(root, 2), "the search is not submitted again"
    assert len(list((root / "scripts").iterdir())) == 3
    assert cli.run(["run", *grid]) == 0
    assert "2 cells in SLURM's queue already" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["run", "retry"])
def test_cells_whose_own_jobs_were_cancelled_are_submitted_again(tmp_path, fake, grid, row, verb):
    root, store = fake(), Store(tmp_path / "out")
    assert cli.run(["run", *grid]) == 0
    name = last_sweep(store).id
    (root / "queue").write_text(
        row("1000", f"{name}.0", "RUNNING") + row("1001", f"{name}.1", "CANCELLED", "None")
    )
    assert cli.run([verb, *(grid if verb == "run" else grid[-1:])]) == 0
    assert "--dependency=afterok:1000\n" in asked(root, 2) and "--array=0-1" in asked(root, 2)


def test_a_search_that_lost_a_job_is_submitted_again(tmp_path, fake, grid, row):
    root, store = fake(), Store(tmp_path / "out")
    assert cli.run(["run", *grid, "shards=2"]) == 0
    name = last_sweep(store).id
    text = row("1000_0", f"{name}.0", "FAILED") + row("1000_1", f"{name}.0", "RUNNING")
    (root / "queue").write_text(text + row("1001", f"{name}.1", "CANCELLED"))
    assert cli.run(["run", *grid, "shards=2"]) == 0
    assert "--dependency=afterok:1002\n" in asked(root, 3)


def test_cancelling_one_task_leaves_the_search_that_others_wait_for(tmp_path, fake, grid, row, capsys):
    root, store = fake(), Store(tmp_path / "out")
    (root / "scancel").write_text(SCANCEL.replace("{root}", str(root)))
    (root / "scancel").chmod(0o755)
    documents, charts = ([text.replace("documents,charts", task) for text in grid] for task in TASKS)
    assert cli.run(["run", *documents]) == 0
    first = last_sweep(store).id
    assert cli.run(["run", *charts]) == 0  # another sweep behind the same search
    (second,) = {path.name for path in store.sweeps.iterdir()} - {first}
    search = row("1000", f"{first}.0", "RUNNING")
    (root / "queue").write_text(
        search + row("1001", f"{first}.1", "PENDING") + row("1002", f"{second}.1", "PENDING")
    )
    capsys.readouterr()
    assert cli.run(["cancel", *documents]) == 0
    assert (root / "cancelled").read_text() == "1001\n"
    said = capsys.readouterr().out
    assert "cancelled 1 SLURM job: 1001. The head search 1000 goes on: 1 other cell behind it." in said
    gone = row("1001", f"{first}.1", "CANCELLED")
    (root / "queue").write_text(search + gone + row("1002", f"{second}.1", "PENDING"))
    assert cli.run(["cancel", *charts]) == 0
    assert sorted((root / "cancelled").read_text().split()) == ["1000", "1001", "1002"]
