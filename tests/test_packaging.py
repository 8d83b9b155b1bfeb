"""The wheel, installed: everything works in a folder that has nothing to do with the clone."""

import os
import shutil
import site
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest

CLONE = Path(__file__).parents[1]
SOURCES = {
    "sparsemm": "sparsemm",
    "conf": "sparsemm/conf",
    "kernels": "sparsemm/kernels",
    "experiments": "sparsemm/experiments",
    "hydra_plugins": "hydra_plugins",
}
SMALL = [
    "method=full,snapkv", "method.window=4", "budget=8", "task.limit=2", "task.page.width=96",
    "task.page.height=48",
    "task.page.font_size=[12,14]", "task.page.entries=[2,2]", "engine.device=cpu",
]  # fmt: skip
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no earlier build folder leaks into it."""
    folder = tmp_path_factory.mktemp("wheel")
    ignore = shutil.ignore_patterns("__pycache__")
    for name in SOURCES:
        shutil.copytree(CLONE / name, folder / "source" / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CLONE / name, folder / "source")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(folder / "source")], check=True)
    (built,) = folder.glob("*.whl")
    return Path(built)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel; it sees the dependencies of this one, no editable install."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    subprocess.run([*command, "--no-index", str(wheel)], check=True)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return folder / "bin"


@pytest.fixture
def call(installed: Path, tmp_path: Path) -> Call:
    """Run a command of the virtual environment in an empty folder."""
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONSAFEPATH")}

    def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(installed / name), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    return run


def test_the_wheel_holds_every_file_of_the_packages(wheel):
    expected = {
        f"{package}/{path.relative_to(CLONE / name)}"
        for name, package in SOURCES.items()
        for path in (CLONE / name).rglob("*")
        if path.is_file() and path.suffix != ".pyc" and path != CLONE / "kernels" / "README.md"
    }
    with ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert found == expected


def test_what_is_imported_is_the_wheel(call, installed):
    printed = "print(sparsemm.__file__, sparsemm.conf.__file__, sep=chr(10))"
    done = call("python", "-c", f"import sparsemm.kernels, sparsemm.conf; {printed}")
    assert done.returncode == 0, done.stderr
    assert all(path.startswith(str(installed.parent)) for path in done.stdout.splitlines())


def test_help_and_plan_work_outside_the_clone(call):
    assert "sparsemm run +experiment=quickstart" in call("sparsemm", "--help").stdout
    plan = call("sparsemm", "plan", "method=full,windwo")
    assert plan.returncode == 2
    assert "Did you mean window?" in plan.stderr


@pytest.mark.skipif(
    not (CLONE / "sparsemm/data/tiny/model.safetensors").exists(), reason="the tiny model is not shipped yet"
)
def test_the_quickstart_can_be_planned_outside_the_clone(call):
    plan = call("sparsemm", "plan", "+experiment=quickstart")
    assert plan.returncode == 0, plan.stderr
    assert "55 cells" in plan.stdout


def test_a_grid_and_its_report_work_outside_the_clone(call, random_model_folder, tmp_path):
    grid = [f"model.path={random_model_folder}", *SMALL]
    plan = call("sparsemm", "plan", *grid)
    assert "2 cells, 0 finished, 2 to run in 1 job" in plan.stdout, plan.stderr
    assert not list(tmp_path.iterdir())
    run = call("sparsemm", "run", *grid)
    assert run.returncode == 0, run.stderr
    assert len(list(tmp_path.glob("outputs/cells/*/*/result.json"))) == 2
    report = call("sparsemm", "report")
    assert report.returncode == 0, report.stderr
    assert "SnapKV" in report.stdout
    (figure,) = tmp_path.glob("outputs/reports/sweep-*/figure.png")
    assert figure.stat().st_size > 1000
