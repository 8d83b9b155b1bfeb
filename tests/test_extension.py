"""Extending SparseMM is adding files: CONTRIBUTING's snippets, put where they say, and no edit elsewhere."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

CLONE = Path(__file__).parents[1]
SMALL = [
    "method.window=4", "task.limit=2", "task.page.width=96", "task.page.height=48",
    "task.page.font_size=[12,14]", "task.page.entries=[2,2]",
    "engine.device=cpu",
]  # fmt: skip
SNIPPET = re.compile(r"```(?:python|yaml)\n# (\S+/\S+)\n(.*?)```", re.DOTALL)
INSTALLED = {"conf": "sparsemm/conf", "experiments": "sparsemm/experiments", "kernels": "sparsemm/kernels"}
CLI = ("-m", "sparsemm.cli")
Sparsemm = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def snippets() -> dict[str, str]:
    """Path in the clone -> content."""
    return dict(SNIPPET.findall((CLONE / "CONTRIBUTING.md").read_text()))


@pytest.fixture(scope="module")
def tree(snippets: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages as they are installed, and the snippets as new files."""
    root = tmp_path_factory.mktemp("tree")
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("sparsemm", "hydra_plugins", *INSTALLED):
        shutil.copytree(CLONE / name, root / INSTALLED.get(name, name), ignore=ignore)
    for path, content in snippets.items():
        top, _, rest = path.partition("/")
        file = root / INSTALLED.get(top, top) / rest
        assert not file.exists(), f"{path} must be a new file"
        file.write_text(content)
    return root


@pytest.fixture
def sparsemm(tree: Path, tmp_path: Path, random_model_folder: Path) -> Sparsemm:
    """The command line of the extended tree."""
    home = tmp_path / "home" / "models"
    home.mkdir(parents=True)
    (home / "mine").symlink_to(random_model_folder)
    heads = {"format": 1, "scores": [[1.0] * 8, [2.0] * 8]}
    (home / "heads.json").write_text(json.dumps(heads))

    def call(*arguments: str, program: Sequence[str] = CLI) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1", "HOME": str(home.parent)}
        command = [sys.executable, *program, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    return call


def test_a_scorer_and_an_allocator_take_two_files_each(snippets):
    for part, name in (("scorer", "key_norm"), ("allocator", "decay")):
        files = [path for path in snippets if Path(path).stem == name]
        assert sorted(files) == [f"conf/{part}/{name}.yaml", f"sparsemm/methods/{part}s/{name}.py"]


def test_the_snippets_of_contributing_run_as_they_stand(sparsemm, tmp_path):
    """One experiment with the new method (its scorer, its allocator), task and model."""
    done = sparsemm("run", "+experiment=short_keys", "model=mine", "task=first_word", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "Short keys" in done.stdout
    results = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/cells/*/*/result.json")]
    assert {result["label"]["method"] for result in results} == {"full", "snapkv", "keynorm"}
    (new, _) = (result for result in results if result["label"]["method"] == "keynorm")
    assert (new["label"]["scorer"], new["label"]["allocator"]) == ("key_norm", "decay")
    assert (new["label"]["model"], new["label"]["task"]) == ("mine", "first_word")
    assert new["entries_per_head"] == new["label"]["budget"]


def test_new_parts_are_checked_like_the_others(sparsemm):
    done = sparsemm("plan", "model=mine", "method=keynorm", "allocator.ratio=0,-1", "budget=8", *SMALL)
    assert done.returncode == 2
    assert "allocator.ratio=0: must be above 0" in done.stderr
    assert "scorer.power=x: must be a number" in sparsemm("plan", "scorer=key_norm", "scorer.power=x").stderr


PLAN_ALL = """
import sys
from sparsemm.cli import run
for line in sys.argv[1:]:
    sys.argv = ["sparsemm"]
    print(line, run(["plan", *line.split()]))
"""


def test_the_commands_of_contributing_compose(sparsemm):
    """Planned, not run; with the random model where they leave the model out."""
    text = (CLONE / "CONTRIBUTING.md").read_text()
    grids = re.findall(r"`sparsemm (?:run|plan) ([^`-]*=[^`]*)`", text)
    assert len(grids) == 7
    grids = [line if "model=" in line else f"model=mine {line}" for line in grids]
    done = sparsemm(*grids, program=["-c", PLAN_ALL])
    assert [f"{line} 0" in done.stdout for line in grids] == [True] * len(grids), done.stderr
