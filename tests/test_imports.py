"""Imports point down only, each heavy dependency has its seam, and no file holds two ideas."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"sparsemm": "sparsemm", "kernels": "sparsemm.kernels", "experiments": "sparsemm.experiments"}
FOLDERS |= {"hydra_plugins": "hydra_plugins"}

# What a part of the package may import of the others; it may always import itself. From the bottom up.
ALLOWED = {
    "kernels": (),
    "paths": (),
    "content": (),
    "needs": (),
    "data": (),
    "conf": (),
    "help": (),
    "lazy": (),
    "methods": ("kernels",),
    "cache": ("kernels",),
    "tasks": ("content", "needs", "paths"),
    # An adapter prepares its model for the ragged cache; engine.attention imports models.base only.
    "models": ("content", "methods", "needs", "paths", "engine.attention"),
    "engine": ("cache", "kernels", "methods", "models", "tasks"),
    "results": ("paths",),
    "heads": ("cache", "engine", "methods", "models", "needs", "paths", "tasks"),
    "prefetch": ("models", "paths", "results"),
    "config": ("bench.settings", "methods", "models", "needs", "paths", "tasks"),
    "sweep": (
        *("config", "engine", "heads", "methods", "models", "needs", "paths", "prefetch", "results", "tasks"),
    ),
    "experiments": ("heads", "models", "paths", "results", "tasks"),
    "api": ("cache", "cli", "config", "engine", "methods"),
    "lmms_plugin": ("api", "config", "engine", "methods", "models", "sweep.worker", "tasks"),
    "bench": (
        *("api", "cache", "config", "engine", "kernels", "methods", "models", "paths", "results.files"),
        *("sweep.code", "tasks"),
    ),
    "cli": ("bench", "config", "help", "lazy", "results", "sweep"),
}

# Who may import a dependency: the modules that begin with one of these.
SEAMS = {
    "hydra": ("api", "cli", "config", "sweep", "hydra_plugins"),
    "omegaconf": ("api", "cli", "config", "sweep", "hydra_plugins", "experiments.train"),
    "pandas": ("results.frames", "tasks.lmms"),
    "matplotlib": ("results.figures", "heads.pictures", "tasks.pages"),
    "yaml": ("results.store",),
    "PIL": ("tasks", "models", "sweep.worker", "heads"),
    "transformers": ("api", "bench", "cache", "engine", "models", "heads", "experiments.train"),
    "tokenizers": ("models",),
    "huggingface_hub": ("models.folder", "prefetch", "tasks.lmms_data"),
    "triton": ("kernels",),
    "flash_attn": ("bench.published", "engine.flash", "kernels.flash_backend"),
    "submitit": ("sweep", "hydra_plugins"),
    "wandb": ("results.wandb",),
    "wandb_workspaces": ("results.wandb",),
    "jinja2": ("results.page",),
    "markupsafe": ("results.page",),
    "lmms_eval": ("tasks.lmms", "lmms_plugin"),
}


def modules() -> dict[str, Path]:
    """Every module of ours and its file."""
    found = {}
    for folder, package in FOLDERS.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            inside = file.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *(part for part in inside if part != "__init__")])] = file
    return found


MODULES = modules()


def imports(module: str) -> Iterator[str]:
    """All that a module imports anywhere; what only type checkers see does not count."""
    file = MODULES[module]
    waiting: list[ast.AST] = [ast.parse(file.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module if file.stem == "__init__" else module.rpartition(".")[0]
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (
                f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names
            )
        waiting += ast.iter_child_nodes(node)


def within(name: str, parts: tuple[str, ...]) -> bool:
    return any(name == part or name.startswith((f"{part}.", f"{part}_")) for part in parts)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down_only(module):
    inside = module.removeprefix("sparsemm").removeprefix(".")
    part = inside.split(".")[0]
    if part in ("", "hydra_plugins"):
        may_import: tuple[str, ...] = ("sweep",)
    else:
        assert part in ALLOWED, f"{module}: say in ALLOWED what it may import"
        may_import = (part, *ALLOWED[part])
    for name in imports(module):
        if name.startswith("sparsemm."):
            used = name.removeprefix("sparsemm.")
            assert within(used, may_import), f"{module} imports {name}"
        assert name.split(".")[0] not in ("kernels", "conf", "experiments"), f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_every_heavy_dependency_has_its_seam(module):
    inside = module.removeprefix("sparsemm.")
    for name in imports(module):
        library = name.split(".")[0]
        if library in SEAMS:
            assert within(inside, SEAMS[library]), f"{module} imports {name}"


def test_kernels_import_each_other_relatively():
    for module, file in MODULES.items():
        if module.startswith("sparsemm.kernels"):
            assert "sparsemm" not in {name.split(".")[0] for name in _absolute(file)}, module


def _absolute(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""


@pytest.mark.parametrize("module", MODULES)
def test_no_file_has_more_than_300_lines(module):
    assert len(MODULES[module].read_text().splitlines()) <= 300


def test_a_sweep_is_planned_and_submitted_without_importing_torch(tmp_path):
    """On a login node, from a shared disk, that takes longer than everything else."""
    code = """
import sys
from sparsemm.cli import main
try:
    main()
finally:
    assert not {"torch._C", "transformers"} & sys.modules.keys()
"""
    for program in ("sbatch", "squeue", "srun", "scontrol"):
        (tmp_path / program).write_text("#!/bin/sh\necho Submitted batch job 7\n")
        (tmp_path / program).chmod(0o755)
    grid = ["+experiment=quickstart", "mask=none,visual", "hydra/launcher=slurm", f"output={tmp_path}"]
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [sys.executable, "-c", code, "run", *grid]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert "SLURM 7: 2 jobs" in done.stdout


def test_the_core_works_without_hydra_pandas_and_matplotlib():
    """Anyone can use the cache and the methods with transformers alone."""
    core = "sparsemm.kernels.ragged_attention sparsemm.cache sparsemm.engine.generate"
    core += " sparsemm.methods.allocators.visual_heads sparsemm.methods.scorers.window_attention"
    code = f"""
import importlib, sys
for name in ("hydra", "omegaconf", "pandas", "matplotlib"):
    sys.modules[name] = None
for name in {core.split()}:
    importlib.import_module(name)
assert not [name for name in sys.modules if name.startswith(("sparsemm.tasks", "sparsemm.results"))]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
