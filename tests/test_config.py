"""conf/ is the registry: every file there composes and builds, and every method file has one."""

from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path

import pytest
import sparsemm.conf
import yaml
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

import sparsemm.methods
from sparsemm.cli import register
from sparsemm.config import EngineConf, build, build_method, build_task, check_settings, check_target
from sparsemm.sweep.compose import Composer

CONF = Path(sparsemm.conf.__path__[0])
METHODS = Path(sparsemm.methods.__path__[0])
GROUPS = ("model", "method", "scorer", "allocator", "mask", "task", "engine", "tracking", "experiment")
PARTS = {"scorer": "scorers", "allocator": "allocators"}
OF_BENCH = ("figure6_efficiency",)  # experiments of `sparsemm bench`
MUST_BE_GIVEN = {"task=lmms": ["task.name=infovqa_val"]}  # options with a setting that has no default


def _options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.fixture(scope="module")
def settings_of():
    register()
    with initialize_config_module("sparsemm.conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()

    def settings(*overrides):
        master = loader.load_configuration("run", list(overrides), RunMode.MULTIRUN)
        grid = [f"{key}={value}" for key, value in (master.hydra.sweeper.params or {}).items()]
        first = next(Composer(loader, master).points([*grid, *overrides]))
        assert first.error is None
        return first.settings

    return settings


@pytest.mark.parametrize(("group", "folder"), PARTS.items())
def test_every_scorer_and_allocator_has_one_python_file_and_one_yaml_file(group, folder):
    python = {path.stem for path in (METHODS / folder).glob("*.py")} - {"__init__"}
    assert python == set(_options(group))
    for name in python:
        target = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())["_target_"]
        module, _, cls = target.rpartition(".")
        assert module == f"sparsemm.methods.{folder}.{name}"
        assert is_dataclass(getattr(import_module(module), cls))


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_composes(settings_of, group):
    """Of an experiment its first point: tests/results/test_experiments.py makes the whole grids."""
    for name in _options(group):
        if group == "experiment" and name in OF_BENCH:
            continue  # of another root, which tests/results/test_efficiency.py composes
        option = f"{'+' if group == 'experiment' else ''}{group}={name}"
        check_settings(settings_of(option, *MUST_BE_GIVEN.get(option, [])))


@pytest.fixture
def heads(tmp_path) -> str:
    path = tmp_path / "heads.json"
    path.write_text('{"format": 1, "scores": [[1.0, 2.0], [3.0, 4.0]]}')
    return f"model.head_scores={path}"


@pytest.mark.parametrize("name", _options("method"))
def test_every_method_builds(settings_of, name, heads):
    assert build_method(settings_of(f"method={name}", heads)).name == name


@pytest.mark.parametrize("name", _options("task"))
def test_every_task_builds(settings_of, name):
    given = MUST_BE_GIVEN.get(f"task={name}", [])
    expected = given[0].partition("=")[2] if given else name
    assert build_task(settings_of(f"task={name}", *given)).name == expected


def test_an_lmms_task_must_be_named(settings_of):
    with pytest.raises(ValueError, match=r"task\.name=None: must be text"):
        check_settings(settings_of("task=lmms"))


@pytest.mark.parametrize("scorer", sorted({*_options("scorer")} - {"none"}))
@pytest.mark.parametrize("allocator", sorted({*_options("allocator")} - {"keep_all"}))
def test_every_scorer_works_with_every_allocator(settings_of, heads, scorer, allocator):
    build_method(settings_of("method=snapkv", f"scorer={scorer}", f"allocator={allocator}", heads))


def test_a_model_is_described_without_being_loaded(settings_of):
    model = build(settings_of("model=tiny")["model"])
    assert model.name == "tiny"


def test_every_value_is_explained_beside_it():
    for path in CONF.rglob("*.yaml"):
        if path.parent.name == "experiment":
            continue
        section = path.read_text().split("\nhydra:")[0]
        for line in section.splitlines():
            key, colon, value = line.partition(":")
            plain = colon and value.strip() and not line.lstrip().startswith(("-", "#"))
            documented = "#" in value or key.strip() in ("_target_", "name", "rounding")
            assert not plain or documented, f"{path.name}: {line}"


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"_target_": "sparsemm.methods.scorers.recnt.Recent"}, "cannot be imported"),
        ({"_target_": "sparsemm.methods.base.parse_budget"}, "must be a dataclass"),
        ({"_target_": "sparsemm.methods.scorers.window_attention.WindowAttention"}, "must be given"),
    ],
)
def test_a_group_file_that_does_not_fit_its_class_is_refused(node, words):
    with pytest.raises(ValueError, match=words):
        check_target("scorer", node)


def test_schemas_carry_no_values():
    assert set(vars(EngineConf()).values()) == {"???"}
