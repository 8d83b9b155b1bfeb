"""The paper's main table from one command, on small random models and local data; every path is real."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.results.tracking.offline import runs_like_the_store

pytest.importorskip("lmms_eval", reason='needs pip install "sparsemm[eval]" and lmms-eval (see README)')
needs_wandb = pytest.mark.skipif(not find_spec("wandb"), reason='needs pip install "sparsemm[wandb]"')
needs_java = pytest.mark.skipif(not shutil.which("java"), reason="CIDEr needs Java")


TRACKED = ["tracking=offline", "tracking.samples=1"] if find_spec("wandb") else []


def reported(said: str) -> Path:
    """The folder of the report."""
    return Path(re.search(r"^(.*)/table\.csv$", said, re.MULTILINE)[1])


def dashboards(said: str) -> bool:
    """Whether both are written, as JSON."""
    return all(
        json.loads((reported(said) / f"wandb-{kind}.json").read_text()) for kind in ("workspace", "report")
    )


@pytest.fixture(scope="module")
def sparsemm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke")

    def call(*arguments):
        command = [sys.executable, "-m", "sparsemm.cli", *arguments, f"output={folder / 'out'}"]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
        return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)

    return call


@pytest.fixture(scope="module")
def table3(sparsemm):
    done = sparsemm("run", "+experiment=table3_main", "+smoke=true", *TRACKED)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@needs_java
def test_the_main_table_has_465_cells_beside_the_papers_numbers(table3):
    assert table3.startswith(
        "465 cells (540 combinations; the others are the same cells), 0 finished, 465 to run"
    )
    assert "in 15 jobs" in table3.splitlines()[0]
    with (reported(table3) / "table.csv").open() as stream:
        places = list(csv.DictReader(stream))
    assert len(places) == 465
    assert all(place["score"] for place in places)
    assert {place["model"] for place in places} == {
        f"{name} smoke" for name in ("llava_next_vicuna_7b", "llava_next_mistral_7b", "qwen2_vl_7b")
    }
    paper = [place for place in places if place["paper"]]
    assert len(paper) > 380, "the paper's column is there; most of DocVQA is not legible in our copy"
    assert not any(place["difference"] for place in places), "random models are not compared with the paper"


@needs_java
@needs_wandb
def test_the_main_table_is_in_wandb_offline_value_by_value(table3):
    assert "W&B: 466 of 466 runs are new or changed" in table3
    cells, report = runs_like_the_store(reported(table3).parents[1])
    assert len(cells) == 465 and dashboards(table3)
    assert report.summary["cells"] == 465 and report.summary["cells_missing"] == 0
    assert sum(one.path.startswith("tables/") for a in report.artifacts for one in a.manifest.contents) == 15


@needs_java
def test_small_random_models_support_and_refute_nothing(table3):
    verdicts = re.findall(r"^  (supported|not supported|not tested):", table3, re.MULTILINE)
    assert verdicts == ["not tested"] * 4


@needs_java
def test_a_second_run_finds_everything_finished(table3, sparsemm):
    done = sparsemm("run", "+experiment=figure4_curves", "+smoke=true")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "465 cells (540 combinations; the others are the same cells), all finished" in done.stdout


@pytest.mark.parametrize("experiment", ["table1_rho", "table2_components", "table4_general"])
def test_the_other_tables_run_too(sparsemm, experiment):
    tracked = TRACKED if experiment != "table4_general" else []
    done = sparsemm("run", f"+experiment={experiment}", "+smoke=true", *tracked)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "paper" in done.stdout
    assert not tracked or dashboards(done.stdout)
