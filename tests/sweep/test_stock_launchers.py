"""Hydra's own sweeper with launchers of others: a plain multirun, each point an ordinary job."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparsemm.results.store import Store

PLUGINS = {"joblib": "hydra_joblib_launcher", "submitit_local": "hydra_submitit_launcher"}


@pytest.mark.parametrize("launcher", PLUGINS)
def test_a_plain_multirun_works_with_a_stock_launcher(launcher, random_model_folder: Path, tmp_path: Path):
    pytest.importorskip(f"hydra_plugins.{PLUGINS[launcher]}")
    grid = ["method=full", "task.limit=1", f"model.path={random_model_folder}"]
    command = [sys.executable, "-m", "sparsemm.cli", "run", "--multirun", "hydra/sweeper=basic", *grid]
    command += [f"hydra/launcher={launcher}", "engine.device=cpu", "engine.threads=1", f"output={tmp_path}"]
    env = {**os.environ, "PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert [result["label"]["method"] for result in Store(tmp_path).results()] == ["full"]
