"""What the launcher hands to sbatch, and what it refuses."""

import json
import os
import re

import pytest

from sparsemm import cli
from sparsemm.results.store import Store
from sparsemm.sweep.errors import CellsFailed, UnusableConfiguration
from sparsemm.sweep.jobs import last_sweep
from sparsemm.sweep.launcher import check, launch
from sparsemm.sweep.plan import Sizing
from sparsemm.sweep.slurm_parameters import SlurmParameters
from sparsemm.sweep.submission import Submission
from sparsemm.sweep.submitted import Submissions


def test_1000_jobs_are_three_arrays_within_the_limit(tmp_path, fake, defaults, overrides):
    root, folder = fake(), tmp_path / "out" / "sweeps" / "mine"
    returned = launch(SlurmParameters.of(defaults), folder, overrides(folder, 1000))
    scripts = [path.read_text() for path in sorted((root / "scripts").iterdir())]
    arrays = [re.search(r"--array=(\S+)", text)[1] for text in scripts]
    assert arrays == ["0-400%256", "0-400%256", "0-197%198"]
    assert len(returned) == 1000 and {one.return_value for one in returned} == {0}
    assert max(len(list(path.iterdir())) for path in (folder / "slurm").iterdir()) < 2000
    submission = Submission.read(folder / "slurm.json")
    assert [part.id for part in submission.parts] == ["1000", "1001", "1002"]
    assert submission.parts[2].jobs[197].cells == (f"{999:020x}",)


def test_sbatchs_own_words_are_shown_once(tmp_path, fake, defaults, overrides, capsys):
    fake(accepts=0)
    folder = tmp_path / "out" / "sweeps" / "mine"
    with pytest.raises(
        UnusableConfiguration, match=r"sbatch says: Batch job .*Invalid partition name specified"
    ):
        launch(SlurmParameters.of(defaults), folder, overrides(folder, 2))
    assert "Invalid partition" not in capsys.readouterr().err


def test_nothing_of_an_allocation_that_a_sweep_is_submitted_from_reaches_its_jobs(
    tmp_path, fake, defaults, overrides, monkeypatch
):
    """Else srun ends them: SLURM_MEM_PER_CPU and SLURM_MEM_PER_NODE are mutually exclusive."""
    root, folder = fake(), tmp_path / "out" / "sweeps" / "mine"
    for name, value in {"SLURM_JOB_ID": "5", "SLURM_MEM_PER_CPU": "100", "SLURM_CONF": "there"}.items():
        monkeypatch.setenv(name, value)
    (root / "sbatch").write_text(f'#!/bin/sh\nenv >"{root}/env"\necho Submitted batch job 7\n')
    launch(SlurmParameters.of(defaults), folder, overrides(folder, 1))
    known = (root / "env").read_text()
    assert "SLURM_CONF=there" in known and "SLURM_MEM_PER_CPU" not in known
    assert os.environ["SLURM_MEM_PER_CPU"] == "100"


def test_who_stops_waiting_is_told_that_the_jobs_go_on(
    tmp_path, fake, defaults, overrides, monkeypatch, capsys
):
    def interrupted(*_):
        raise KeyboardInterrupt

    fake()
    monkeypatch.setattr("sparsemm.sweep.launcher._wait", interrupted)
    folder = tmp_path / "out" / "sweeps" / "mine"
    with pytest.raises(KeyboardInterrupt):
        launch(SlurmParameters.of(defaults | {"wait": True}), folder, overrides(folder, 1))
    assert "the jobs go on in SLURM" in capsys.readouterr().err


def test_an_output_folder_that_slurm_would_misread_is_refused(tmp_path, fake, defaults):
    fake()
    for name, sign in (("100%", "%"), ("back\\slash", "\\")):
        words = re.escape(f"/{name}: SLURM takes {sign} in a log path")
        with pytest.raises(UnusableConfiguration, match=words):
            launch(SlurmParameters.of(defaults), tmp_path / name / "sweeps" / "mine", [])


def test_other_sweepers_jobs_are_refused(tmp_path, fake, defaults):
    fake()
    with pytest.raises(UnusableConfiguration, match="project's own sweeper"):
        launch(SlurmParameters.of(defaults), tmp_path / "sweeps" / "mine", [["method=full"]])


def test_a_limit_reached_midway_says_how_many_are_left(tmp_path, fake, defaults, overrides):
    fake(accepts=1, error="QOSMaxSubmitJobPerUserLimit")
    folder = tmp_path / "out" / "sweeps" / "mine"
    with pytest.raises(CellsFailed, match=r"99 of 500 jobs were not submitted\. sbatch says: QOSMaxSubmit"):
        launch(SlurmParameters.of(defaults), folder, overrides(folder, 500))
    assert [part.id for part in Submission.read(folder / "slurm.json").parts] == ["1000", None]


def test_every_parameter_of_the_command_line_becomes_a_line_of_the_script(tmp_path, fake):
    root = fake()
    given = {"partition": "a", "account": "b", "qos": "c", "time_min": 7, "gpus": 2, "cpus": 3, "mem_gb": 3}
    given |= {"workers": 2, "array_parallelism": 5, "signal_s": 40, "exclusive": "true"}
    given |= {"setup": "[module load x]", "environment": "{A: b c}", "sbatch": "{constraint: a100}"}
    given |= {"environment.B": 1, "sbatch.exclude": "'n[7-9]'"}
    arguments = ["task=documents,charts", "method=full", "hydra/launcher=slurm", "engine.device=cpu"]
    arguments += [f"hydra.launcher.{key}={value}" for key, value in given.items()]
    assert cli.run(["run", *arguments, f"output={tmp_path / 'out'}"]) == 0
    script = (root / "scripts" / "0").read_text()
    flags = "partition=a account=b qos=c time=7 gpus-per-node=2 cpus-per-task=3 ntasks-per-node=2 mem=3072MB"
    flags += " exclusive constraint=a100 exclude='n[7-9]' signal=USR2@40 array=0-1%2 requeue"
    for flag in flags.split():
        assert f"#SBATCH --{flag}\n" in script
    for line in ("module load x", "export A='b c'", "export B=1", "export PYTHONSAFEPATH=1"):
        assert f"{line}\n" in script
    assert "--cpu-bind=none" in script.split("# command")[1], "a worker has all CPUs that it was given"


@pytest.mark.parametrize("name", ["slurm", "slurm_node", "slurm_cpu"])
def test_every_preset_is_usable_as_it_stands(preset, fake, name):
    fake()
    parameters = check(preset(name))
    assert (parameters.gpus > 0, parameters.workers) == (
        name != "slurm_cpu",
        8 if name == "slurm_node" else 1,
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"partion": "gpu"}, "hydra.launcher.partion=gpu: there is no such setting. Did you mean partition?"),
        ({"time_min": "4h"}, "hydra.launcher.time_min=4h: must be a whole number"),
        ({"time_min": 0}, "hydra.launcher.time_min=0: must be at least 1"),
        ({"environment": {"A-B": 1}}, "A-B is no name of a variable"),
        ({"setup": "module load x"}, "hydra.launcher.setup=module load x: must be a list, as"),
        ({"mem_gb": "lots"}, "mem_gb=lots: must be a whole number or a number or null"),
        ({"poll_s": 0}, "hydra.launcher.poll_s=0: must be at least 0.1"),
        ({"time_min": 2}, "signal_s=90: must be at most half of time_min=2, that is 60"),
        ({"sbatch": {"time": 60}}, "hydra.launcher.sbatch.time: set hydra.launcher.time_min"),
        ({"sbatch": {"gpus-per-node": "a100:2"}}, "asks for GPUs as hydra.launcher.gpus does"),
        ({"sbatch": {"job_name": "mine"}}, "hydra.launcher.sbatch.job_name: the launcher sets it"),
    ],
)
def test_a_parameter_that_no_job_could_have_is_refused(defaults, given, words):
    with pytest.raises(UnusableConfiguration, match=words.replace("?", r"\?")):
        check(defaults | given)


def test_an_unknown_parameter_lists_those_that_there_are(tmp_path, capsys):
    assert cli.run(["run", "hydra/launcher=slurm", "hydra.launcher.partion=x", f"output={tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert "hydra.launcher.partion: there is no such parameter. Did you mean partition?" in said
    assert "time_min=240" in said and "account=null" in said and "wait=false" in said


def test_without_sbatch_the_message_says_where_to_go(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = ["task.limit=1", "method=full", "hydra/launcher=slurm", f"output={tmp_path / 'out'}"]
    assert cli.run(["run", *arguments]) == 2
    assert "there is no sbatch on this machine's PATH. Run this on a login node" in capsys.readouterr().err
    assert not list(tmp_path.glob("out/sweeps/*")), "nothing was started, and no trace of it stays"
    assert cli.run(["cancel", *arguments[:2], f"output={tmp_path / 'out'}"]) == 2


@pytest.mark.parametrize(
    ("minutes", "shards", "workers", "split"), [(1, 1, 1, 3), (1, 5, 1, 5), (1, 1, 2, 4), (9, 1, 1, 1)]
)
def test_a_task_is_split_by_its_measured_time(monkeypatch, minutes, shards, workers, split):
    from sparsemm.sweep import plan

    monkeypatch.setattr(plan, "_measured", lambda _: {})
    monkeypatch.setattr(plan, "_estimate", lambda *_: 150.0)
    monkeypatch.setattr(plan, "build_task", lambda _: range(100))
    job = type("C", (), {"settings": {}})()
    assert Sizing(shards, minutes, workers).split(None, [[job]]) == [split]
    monkeypatch.setattr(plan, "_estimate", lambda *_: None)
    assert Sizing(shards, minutes, workers).split(None, [[job]]) == [workers * -(-shards // workers)]


def test_cells_go_behind_the_head_search_of_their_own_model(tmp_path, fake, defaults):
    root, folder = fake(), tmp_path / "out" / "sweeps" / "mine"
    (folder / "jobs").mkdir(parents=True)
    contents = {"search-0": {"search": {"out": "a"}}, "search-1": {"search": {"out": "b"}}}
    contents |= {"0": {"cells": [], "awaits": ["b"]}, "1": {"cells": []}}
    contents |= {"2": {"cells": [], "awaits": ["a", "b"]}}
    files = [folder / "jobs" / f"{name}.json" for name in contents]
    for file, content in zip(files, contents.values(), strict=True):
        file.write_text(json.dumps(content))
    given = SlurmParameters.of(defaults | {"sbatch": {"dependency": "singleton"}})
    launch(given, folder, [[f"job_file='{file}'"] for file in files])
    scripts = [path.read_text() for path in sorted((root / "scripts").iterdir())]
    found = [re.search(r"--dependency=(\S+)", text)[1] for text in scripts]
    assert found == [
        *("singleton", "singleton", "afterok:1001,singleton", "singleton"),
        "afterok:1000:1001,singleton",
    ]
    assert "--kill-on-invalid-dep=yes" in scripts[2]
    assert [part.after for part in Submission.read(folder / "slurm.json").parts] == [(), (), (1,), (), (0, 1)]


def test_a_cell_that_waited_for_head_scores_gets_the_fingerprint_that_it_has_with_them(
    tmp_path, fake, model_folder, capsys
):
    """Whoever looks first, at the queue or on a node, finds what the sweep's own command would."""
    fake()
    scores, store = tmp_path / "scores.json", Store(tmp_path / "out")
    grid = [f"model.path={model_folder}", "model=qwen2_vl_7b", "method=full,sparsemm,random", "budget=64"]
    grid += [f"model.head_scores={scores}", "mask=none,visual", "mask.share=0.3", "task=documents"]
    grid += ["find_heads=true", "hydra/launcher=slurm", f"output={store.root}"]
    assert cli.run(["run", *grid]) == 0
    said = capsys.readouterr().out
    assert "SLURM 1000: head search, 1 job" in said and "SLURM 1001: 2 jobs, after 1000" in said
    before = {entry["fingerprint"] for entry in last_sweep(store).cells}
    scores.write_text((model_folder / "heads.json").read_text())
    assert cli.run(["run", *grid]) == 0
    assert "6 cells in SLURM's queue already" in capsys.readouterr().out
    after = {entry["fingerprint"] for entry in last_sweep(store).cells}
    assert len(before) == len(after) == 6 and len(before & after) == 2
    assert Submissions(store).current({name: {} for name in before}).keys() == after, "who watches goes on"


def test_a_retry_without_a_launcher_goes_where_the_cells_were_sent(tmp_path, fake, row):
    root, here = fake(), [f"output={tmp_path}"]
    sent = ["hydra/launcher=slurm", "hydra.launcher.partition=big", "hydra.launcher.sbatch={nice: 5}"]
    assert cli.run(["run", "method=full", "task.limit=1", "engine.device=cpu", *sent, *here]) == 0
    (folder,) = tmp_path.glob("sweeps/*")
    (root / "queue").write_text(row("1000", f"{folder.name}.0", "TIMEOUT"))
    assert cli.run(["retry", *here]) == 0
    script = (root / "scripts" / "1").read_text()
    assert "#SBATCH --partition=big\n" in script and "#SBATCH --nice=5\n" in script
    folder = next(one for one in tmp_path.glob("sweeps/*") if one != folder)
    (root / "queue").write_text(
        "".join(row("1", f"{one.name}.0", "TIMEOUT") for one in folder.parent.iterdir())
    )
    assert cli.run(["retry", "hydra/launcher=basic", *here]) == 0
    assert len(list((root / "scripts").iterdir())) == 2, "it ran here"


def test_a_submission_forgets_the_failures_of_earlier_shards(tmp_path, fake, capsys):
    """Another number of shards would not: each forgets only its own."""
    fake()
    grid = ["method=full", "task.limit=1", "engine.device=cpu", f"output={tmp_path}", "hydra/launcher=slurm"]
    assert cli.run(["run", *grid]) == 0
    store = Store(tmp_path)
    (cell,) = (store.cell(entry["fingerprint"]) for entry in last_sweep(store).cells)
    for part in ("", "shard-0-of-2", "shard-1-of-2"):
        cell.write_failure("out of memory", part)
    (tmp_path / "sweeps" / last_sweep(store).id / "slurm.json").unlink()
    assert cli.run(["run", *grid]) == 0
    assert cell.failure() is None
    capsys.readouterr()
    assert cli.run(["status", f"output={tmp_path}"]) == 0
    assert "1 pending" in capsys.readouterr().out
