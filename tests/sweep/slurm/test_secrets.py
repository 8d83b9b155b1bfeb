"""Secrets among the launcher's parameters reach the jobs, and no file."""

import pytest

from sparsemm import cli
from sparsemm.sweep.errors import UnusableConfiguration
from sparsemm.sweep.launcher import check
from sparsemm.sweep.submission import secrets


@pytest.fixture
def sent(tmp_path, fake, row):
    """A sweep that was sent with a secret, and has stopped; returns what SLURM got."""
    root = fake()
    (root / "sbatch").write_text((root / "sbatch").read_text().replace("n=$(", f'env >"{root}/env"\nn=$(', 1))
    given = ["hydra/launcher=slurm", "hydra.launcher.environment={HF_TOKEN: hidden1, HF_HOME: /hub}"]
    given += ["hydra.launcher.setup=[module load x]"]
    grid = ["method=full", "task.limit=1", "engine.device=cpu", f"output={tmp_path / 'out'}"]
    assert cli.run(["run", *grid, *given]) == 0
    (folder,) = tmp_path.glob("out/sweeps/*")
    (root / "queue").write_text(row("1000", f"{folder.name}.0", "TIMEOUT"))
    return root


def test_a_secret_reaches_the_jobs_and_no_file_that_others_can_read(tmp_path, sent):
    assert "HF_TOKEN=hidden1\n" in (sent / "env").read_text()
    script = (sent / "scripts" / "0").read_text()
    assert "hidden1" not in script and "export HF_HOME=/hub" in script
    found = (tmp_path / "out").rglob("*")  # the code.diff of a working tree may be about these very words
    files = [path for path in found if path.is_file() and path.name != "code.diff"]
    assert files and not [path for path in files if b"hidden1" in path.read_bytes()]
    told = [path for path in files if b"module load x" in path.read_bytes()]
    assert told and {path.stat().st_mode & 0o077 for path in told} == {0}
    (logs,) = tmp_path.glob("out/sweeps/*/slurm/0")
    assert logs.stat().st_mode & 0o055 == 0o055, "colleagues may read logs"


def test_a_retry_takes_the_secret_from_the_shell_or_asks_for_it(tmp_path, sent, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert cli.run(["retry", f"output={tmp_path / 'out'}"]) == 2
    said = capsys.readouterr().err
    assert "hydra.launcher.environment.HF_TOKEN: these jobs were given it" in said
    assert "export HF_TOKEN=..." in said
    monkeypatch.setenv("HF_TOKEN", "hidden2")
    assert cli.run(["retry", f"output={tmp_path / 'out'}"]) == 0
    assert "HF_TOKEN=hidden2\n" in (sent / "env").read_text()


def test_a_secret_that_sbatch_would_keep_back_is_refused(defaults, fake):
    fake()
    given = defaults | {"environment": {"HF_TOKEN": "x"}, "sbatch": {"export": "NONE"}}
    with pytest.raises(
        UnusableConfiguration, match=r"environment\.HF_TOKEN: secrets reach jobs through sbatch"
    ):
        check(given)
    check(given | {"sbatch": {"export": "NONE,HF_TOKEN"}})


def test_what_a_secret_is_shows_in_its_name():
    names = ["HF_TOKEN", "wandb_api_key", "PASSWORD2", "AWS_SECRET_ACCESS_KEY", "TOKENIZERS_PARALLELISM"]
    assert secrets([*names, "HF_HOME", "KEYBOARD"]) == tuple(names[:4])
