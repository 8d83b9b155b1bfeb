"""The SLURM launcher without a cluster: what SLURM is asked, and what is made of its answers."""

import json
import os
import re
import time
from pathlib import Path

import pytest

from sparsemm import cli
from sparsemm.results.leases import Heartbeat, Leases
from sparsemm.results.store import Store
from sparsemm.sweep import slurm
from sparsemm.sweep.code import changes
from sparsemm.sweep.errors import CellsFailed, UnusableConfiguration
from sparsemm.sweep.launcher import SlurmParameters, check, launch
from sparsemm.sweep.plan import Sizing
from sparsemm.sweep.status import read_status, render
from sparsemm.sweep.submitted import Job, Part, Submission, Submissions

LABEL = {"model": "tiny", "task": "documents", "method": "snapkv", "budget": 8}
SBATCH = """#!/bin/sh
n=$(ls {root}/scripts | wc -l)
cp "$1" {root}/scripts/$n
if [ $n -ge {accepts} ]; then echo "sbatch: error: {error}" >&2; exit 1; fi
echo Submitted batch job $((1000 + n))
"""
SQUEUE = '#!/bin/sh\necho squeue "$@" >>{root}/asked; cat {root}/queue\n'
SACCT = '#!/bin/sh\necho sacct "$@" >>{root}/asked; cat {root}/accounts\n'


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Commands of SLURM that write down what they are asked; returns what to set up."""

    def make(accepts=10_000, error="Batch job submission failed: Invalid partition name specified"):
        root = tmp_path / "fake"
        (root / "scripts").mkdir(parents=True)
        texts = {"sbatch": SBATCH, "squeue": SQUEUE, "sacct": SACCT, "srun": "#!/bin/sh\n"}
        texts["scontrol"] = "#!/bin/sh\necho 'MaxArraySize            = 401'\n"
        for name, text in texts.items():
            values = {"{root}": root, "{accepts}": accepts, "{error}": error}
            for key, value in values.items():
                text = text.replace(key, str(value))
            (root / name).write_text(text)
            (root / name).chmod(0o755)
        for name in ("queue", "accounts", "asked"):
            (root / name).touch()
        monkeypatch.setenv("PATH", f"{root}:{os.environ['PATH']}")
        slurm.max_array.cache_clear()
        return root

    yield make
    slurm.max_array.cache_clear()


@pytest.fixture(scope="module")
def defaults(preset):
    """The parameters of hydra/launcher=slurm."""
    return preset("slurm")


@pytest.fixture(scope="module")
def preset():
    """The parameters of a file in conf/hydra/launcher."""
    return _preset


def _preset(name):
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    cli.register()
    with initialize_config_module("sparsemm.conf", version_base="1.3"):
        config = compose("run", [f"hydra/launcher={name}"], return_hydra_config=True)
        node = OmegaConf.to_container(OmegaConf.select(config, "hydra.launcher"), resolve=True)
    return {key: value for key, value in node.items() if key != "_target_"}


def _files(folder: Path, count: int) -> list[Path]:
    (folder / "jobs").mkdir(parents=True)
    files = [folder / "jobs" / f"{number}.json" for number in range(count)]
    for number, file in enumerate(files):
        file.write_text(json.dumps({"cells": [{"fingerprint": f"{number:020x}"}]}))
    return files


def _overrides(files):
    return [[f"job_file='{file}'"] for file in files]


def test_1000_jobs_are_arrays_within_the_limit_in_seconds(tmp_path, fake, defaults):
    root, folder = fake(), tmp_path / "out" / "sweeps" / "mine"
    began = time.process_time()
    returned = launch(SlurmParameters.of(defaults), folder, _overrides(_files(folder, 1000)))
    assert time.process_time() - began < 5
    scripts = [(root / "scripts" / str(n)).read_text() for n in range(3)]
    arrays = [re.search(r"--array=(\S+)", text)[1] for text in scripts]
    assert arrays == ["0-400%256", "0-400%256", "0-197%198"]
    assert len(returned) == 1000 and {one.return_value for one in returned} == {0}
    assert max(len(list(path.iterdir())) for path in (folder / "slurm").iterdir()) < 2000
    submission = Submission.read(folder / "slurm.json")
    assert [part.id for part in submission.parts] == ["1000", "1001", "1002"]
    assert submission.parts[2].jobs[197].cells == (f"{999:020x}",)


def test_a_look_at_1000_jobs_is_one_squeue_and_one_sacct(tmp_path, fake):
    root, store = fake(), Store(tmp_path / "out")
    jobs = tuple(Job((), (f"{number:020x}",)) for number in range(1000))
    parts = tuple(Part(f"s.{n}", tmp_path / str(n), jobs[n * 400 : n * 400 + 400], str(n)) for n in range(3))
    Submission(store.sweeps / "s", time.time() - 100, parts).write()
    (root / "queue").write_text(
        _row("0_3", "s.0", "RUNNING", "None", "n7", 2) + _row("1_0", "s.1", "PENDING")
    )
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


def _row(job, name, state, reason="Resources", node="", restarts=0):
    return "|".join([job, name, state, reason, node, str(restarts), ""]) + "\n"


def test_a_failed_job_shows_the_end_of_its_log_and_where_it_is(tmp_path, fake):
    root, store, folder = fake(), Store(tmp_path / "out"), tmp_path / "logs"
    Submission(
        store.sweeps / "s", time.time(), (Part("s.0", folder, (Job((), ("ab" * 10,)),), "77"),)
    ).write()
    (root / "queue").write_text(_row("77", "s.0", "FAILED", "NonZeroExitCode", "n1"))
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


def test_an_id_that_came_again_is_another_job(tmp_path, fake):
    root, store = fake(), Store(tmp_path / "out")
    Submission(store.sweeps / "s", 0.0, (Part("s.0", tmp_path, (Job((), ("ab" * 10,)),), "77"),)).write()
    (root / "queue").write_text(_row("77", "another.0", "COMPLETED"))
    (job,) = Submissions(store).jobs(["ab" * 10])["ab" * 10]
    assert job.state == "GONE"


def test_a_submission_that_was_killed_before_sbatch_answered_is_found_by_name(tmp_path, fake):
    root, store = fake(), Store(tmp_path / "out")
    Submission(store.sweeps / "s", 0.0, (Part("s.0", tmp_path, (Job((), ("ab" * 10,)),)),)).write()
    assert not Submissions(store).jobs(["ab" * 10])["ab" * 10][0].broken, "it was never submitted"
    (root / "queue").write_text(_row("78", "s.0", "PENDING"))
    (job,) = Submissions(store).jobs(["ab" * 10])["ab" * 10]
    assert (job.id, job.live) == ("78", True)


def test_slurm_that_does_not_answer_is_said_and_the_store_still_shown(tmp_path, fake):
    root, store = fake(), Store(tmp_path / "out")
    Submission(store.sweeps / "s", 0.0, (Part("s.0", tmp_path, (Job((), ("ab" * 10,)),), "77"),)).write()
    (root / "squeue").write_text("#!/bin/sh\necho slurm_load_jobs error: Unable to contact >&2; exit 1\n")
    text = render("s", {"ab" * 10: LABEL}, read_status(store, {"ab" * 10: LABEL}))
    assert "1 pending" in text and "SLURM does not answer: slurm_load_jobs error: Unable to contact" in text


def test_sbatchs_own_words_are_shown(tmp_path, fake, defaults):
    fake(accepts=0)
    folder = tmp_path / "out" / "sweeps" / "mine"
    with pytest.raises(
        UnusableConfiguration, match=r"sbatch says: Batch job .*Invalid partition name specified"
    ):
        launch(SlurmParameters.of(defaults), folder, _overrides(_files(folder, 2)))


def test_an_output_folder_that_slurm_would_misread_is_refused(tmp_path, fake, defaults):
    fake()
    with pytest.raises(UnusableConfiguration, match=r"/100%: SLURM takes % in a log path"):
        launch(SlurmParameters.of(defaults), tmp_path / "100%" / "sweeps" / "mine", [])


def test_other_sweepers_jobs_are_refused(tmp_path, fake, defaults):
    fake()
    with pytest.raises(UnusableConfiguration, match="project's own sweeper"):
        launch(SlurmParameters.of(defaults), tmp_path / "sweeps" / "mine", [["method=full"]])


def test_a_limit_reached_midway_says_how_many_are_left(tmp_path, fake, defaults):
    fake(accepts=1, error="QOSMaxSubmitJobPerUserLimit")
    folder = tmp_path / "out" / "sweeps" / "mine"
    with pytest.raises(CellsFailed, match=r"99 of 500 jobs were not submitted\. sbatch says: QOSMaxSubmit"):
        launch(SlurmParameters.of(defaults), folder, _overrides(_files(folder, 500)))
    assert [part.id for part in Submission.read(folder / "slurm.json").parts] == ["1000", None]


def test_parameters_become_lines_of_the_script(tmp_path, fake, defaults):
    root, folder = fake(), tmp_path / "out" / "sweeps" / "mine"
    given = {
        "partition": "a",
        "account": "b",
        "qos": "c",
        "time_min": 7,
        "gpus": 2,
        "workers": 2,
        "mem_gb": 3,
    }
    given |= {"setup": ["module load x"], "environment": {"A": "b c"}, "sbatch": {"constraint": "a100"}}
    launch(SlurmParameters.of(defaults | given), folder, _overrides(_files(folder, 4)))
    script = (root / "scripts" / "0").read_text()
    flags = "partition=a account=b qos=c time=7 gpus-per-node=2 ntasks-per-node=2 mem=3072MB constraint=a100"
    for flag in [*flags.split(), "signal=USR2@90", "array=0-1%2", "requeue"]:
        assert f"#SBATCH --{flag}\n" in script
    assert (
        "module load x\n" in script and "export A='b c'\n" in script and "export PYTHONSAFEPATH=1\n" in script
    )


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
    ],
)
def test_a_parameter_that_no_job_could_have_is_refused(defaults, given, words):
    with pytest.raises(UnusableConfiguration, match=words.replace("?", r"\?")):
        check(defaults | given)


def test_an_unknown_parameter_lists_those_that_there_are(tmp_path, capsys):
    assert cli.run(["run", "hydra/launcher=slurm", "hydra.launcher.partion=x", f"output={tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert "hydra.launcher.partion: there is no such parameter. Did you mean partition?" in said
    assert "time_min=240" in said and "account=null" in said


def test_without_sbatch_the_message_says_where_to_go(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = ["task.limit=1", "method=full", "hydra/launcher=slurm", f"output={tmp_path / 'out'}"]
    assert cli.run(["run", *arguments]) == 2
    assert "there is no sbatch on this machine's PATH. Run this on a login node" in capsys.readouterr().err
    assert not list(tmp_path.glob("out/sweeps/*")), "nothing was started, and no trace of it stays"
    assert cli.run(["cancel", *arguments[:2], f"output={tmp_path / 'out'}"]) == 2


def test_a_head_search_that_nobody_waits_for_is_refused(tmp_path, fake, capsys):
    fake()
    grid = ["method=sparsemm", "model.head_scores=none.json", "find_heads=true", "hydra/launcher=slurm"]
    assert cli.run(["run", *grid, f"output={tmp_path / 'out'}"]) == 2
    assert "Add hydra.launcher.wait=true; or search first" in capsys.readouterr().err


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


def test_changed_code_is_put_into_words():
    then = {"commit": "a" * 40, "dirty": False, "diff": ""}
    assert changes(then, then) == ""
    assert "commit aaaaaaaaaa was submitted, bbbbbbbbbb" in changes(then, then | {"commit": "b" * 40})
    assert "differ otherwise" in changes(then, then | {"diff": "12"})
    assert changes({"commit": None}, then) == ""


def test_a_cell_that_waits_in_slurm_is_awaited_and_one_that_runs_is_running(tmp_path, fake):
    root, store, names = fake(), Store(tmp_path / "out"), ["ab" * 10, "cd" * 10]
    jobs = tuple(Job((), (name,)) for name in names)
    Submission(store.sweeps / "s", time.time(), (Part("s.0", tmp_path, jobs, "7"),)).write()
    (root / "queue").write_text(_row("7_0", "s.0", "RUNNING", "None", "n1") + _row("7_1", "s.0", "PENDING"))
    with Heartbeat(store, "w", job="s/0", job_id="7_0") as beat:
        beat.update(done=1, total=4, state="running")
        beat.beat()
        assert Leases(store, "w").acquire(names[0])
        status = read_status(store, dict.fromkeys(names, LABEL))
    assert [state.word for state in status.states.values()] == ["running", "pending"]
    assert status.awaited and not status.ended
