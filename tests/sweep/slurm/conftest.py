"""SLURM's commands as scripts that write down what they are asked, and the parameters of the launcher."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparsemm import cli
from sparsemm.sweep import slurm

SBATCH = """#!/bin/sh
n=$(ls "{root}/scripts" | wc -l)
cp "$1" "{root}/scripts/$n"
if [ $n -ge {accepts} ]; then echo "sbatch: error: {error}" >&2; exit 1; fi
echo Submitted batch job $((1000 + n))
"""
SQUEUE = '#!/bin/sh\necho squeue "$@" >>"{root}/asked"; cat "{root}/queue"\n'
SACCT = '#!/bin/sh\necho sacct "$@" >>"{root}/asked"; cat "{root}/accounts"\n'


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


@pytest.fixture
def row() -> Callable[..., str]:
    """A line of squeue's answer."""

    def make(job, name, state, reason="Resources", node="", restarts=0):
        return "|".join([job, name, state, reason, node, str(restarts), ""]) + "\n"

    return make


@pytest.fixture
def overrides() -> Callable[[Path, int], list[list[str]]]:
    """Job files of one cell each in a sweep's folder, as the launcher is given them."""

    def make(folder: Path, count: int) -> list[list[str]]:
        (folder / "jobs").mkdir(parents=True)
        files = [folder / "jobs" / f"{number}.json" for number in range(count)]
        for number, file in enumerate(files):
            file.write_text(json.dumps({"cells": [{"fingerprint": f"{number:020x}"}]}))
        return [[f"job_file='{file}'"] for file in files]

    return make


@pytest.fixture(scope="module")
def defaults(preset):
    """The parameters of hydra/launcher=slurm."""
    return preset("slurm")


@pytest.fixture(scope="module")
def preset():
    """The parameters of a file in conf/hydra/launcher."""

    def parameters(name: str) -> dict[str, Any]:
        from hydra import compose, initialize_config_module
        from omegaconf import OmegaConf

        cli.register()
        with initialize_config_module("sparsemm.conf", version_base="1.3"):
            config = compose("run", [f"hydra/launcher={name}"], return_hydra_config=True)
            node = OmegaConf.to_container(OmegaConf.select(config, "hydra.launcher"), resolve=True)
        return {key: value for key, value in node.items() if key != "_target_"}

    return parameters
