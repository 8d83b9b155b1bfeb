"""What is missing is listed by plan, and stops run before anything starts."""

import subprocess
import sys

import pytest

from sparsemm.sweep.grid import make_grid
from sparsemm.sweep.prerequisites import needs_of

GRID = ["model=llava_next_vicuna_7b,qwen2_vl_7b", "method=full,sparsemm", "budget=64,128"]


@pytest.fixture(autouse=True)
def _empty_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))


@pytest.fixture
def sparsemm(tmp_path):
    def call(*arguments):
        command = [sys.executable, "-m", "sparsemm.cli", *arguments, f"output={tmp_path / 'out'}"]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    return call


def test_a_grid_without_weights_and_head_scores_can_be_planned(sparsemm, tmp_path):
    done = sparsemm("plan", *GRID)
    assert done.returncode == 0, done.stderr
    assert "6 cells" in done.stdout
    missing = done.stdout.split("missing, to be brought before a run:\n")[1].splitlines()
    command = f"sparsemm prefetch {' '.join(GRID)} output={tmp_path / 'out'}"
    heads = [f"{tmp_path}/out/heads/{name}.json" for name in ("llava_next_vicuna_7b", "qwen2_vl_7b")]
    assert [line.split(": ")[0].strip() for line in missing] == [
        f"head scores of llava_next_vicuna_7b ({heads[0]})",
        f"head scores of qwen2_vl_7b ({heads[1]})",
        "weights of Qwen/Qwen2-VL-7B-Instruct",
        "weights of llava-hf/llava-v1.6-vicuna-7b-hf",
    ]
    assert [line.endswith(f": {command}") for line in missing] == [False, False, False, True]


def test_run_starts_nothing_while_something_is_missing(sparsemm, tmp_path):
    done = sparsemm("run", *GRID)
    assert done.returncode == 2
    assert "Nothing was started: 4 things are missing:" in done.stderr
    assert not (tmp_path / "out" / "sweeps").exists()


def test_a_head_file_that_is_not_there_stops_the_methods_that_need_it_only(make_composer, model):
    arguments = [*model, "model.head_scores=/nowhere.json", "method=snapkv,sparsemm"]
    cells = {cell.label["method"]: cell for cell in make_grid(make_composer(), arguments).cells}
    assert not cells["snapkv"].needs
    assert [need.kind for need in cells["sparsemm"].needs] == ["heads"]
    assert "/nowhere.json" in str(needs_of(cells.values())[0])


def test_a_cell_gets_another_fingerprint_when_what_it_needs_has_come(make_composer, model, model_folder):
    maker = lambda file: make_grid(  # noqa: E731
        make_composer(), [*model, f"model.head_scores={file}", "method=sparsemm"]
    ).cells[0]
    assert maker("/nowhere.json").fingerprint != maker(model_folder / "heads.json").fingerprint


def test_what_can_be_checked_without_the_missing_is_checked(sparsemm):
    done = sparsemm("plan", *GRID, "method.window=200")
    assert done.returncode == 2
    assert "budget=64: must be at least 200" in done.stderr
