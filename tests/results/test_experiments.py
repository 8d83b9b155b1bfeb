"""The experiments of the paper: their grids and claims, which the paper's own numbers must support."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import sparsemm.conf
import yaml
from hydra import initialize_config_module
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from sparsemm.cli import register
from sparsemm.results import paper
from sparsemm.results.figures import draw
from sparsemm.results.statements import Numbers, Pair, Place, Statement, Sum
from sparsemm.results.tables import Claim, build_tables
from sparsemm.sweep.cells import Cell
from sparsemm.sweep.compose import Composer
from sparsemm.sweep.jobs import group_into_jobs
from sparsemm.sweep.sweeper import make_grid

Maker = Callable[..., dict[str, Any]]
CONF = Path(sparsemm.conf.__path__[0]) / "experiment"
EVERY = sorted(path.stem for path in CONF.glob("*.yaml"))
OF_HEADS = ("figure2_heads",)  # searches, no cells: tests/heads
OF_BENCH = ("figure6_efficiency",)  # tests/results/test_efficiency.py
EXPERIMENTS = [name for name in EVERY if name not in (*OF_HEADS, *OF_BENCH)]
PAPER = {"table1_rho": 24, "table2_components": 18, "table3_main": 465, "table4_general": 93}
TOLERANCE = 0.015  # of the paper's numbers, which have no intervals: the standard error of 1000 samples


# the others of table3_main's size are looked at in one model and benchmark
NARROWER = dict.fromkeys(("table3_exact", "figure4_curves"), ("model=qwen2_vl_7b", "task=ocrbench"))


def params(name: str) -> dict[str, str]:
    """What an experiment sweeps, with what it takes from another one."""
    content = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    bases = [one for one in content["defaults"] if isinstance(one, str) and one != "_self_"]
    own = content.get("hydra", {}).get("sweeper", {}).get("params", {})
    return {key: value for base in bases for key, value in params(base).items()} | own


def claim_of(name: str) -> Claim:
    found = import_module(f"sparsemm.experiments.{name}").CLAIM
    assert isinstance(found, Claim)
    return found


@pytest.fixture(scope="module")
def loader() -> Iterator[ConfigLoader]:
    register()
    with initialize_config_module("sparsemm.conf", version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


@pytest.fixture(scope="module")
def cells_of(loader: ConfigLoader) -> Callable[[str], list[Cell]]:
    known: dict[tuple[str, ...], list[Cell]] = {}

    def cells(name: str, *narrower: str) -> list[Cell]:
        if (name, *narrower) not in known:
            overrides = [f"+experiment={name}", *narrower]
            master = loader.load_configuration("run", overrides, RunMode.MULTIRUN)
            grid = [f"{key}={value}" for key, value in master.hydra.sweeper.params.items()]
            known[name, *narrower] = make_grid(Composer(loader, master), [*grid, *overrides]).cells
        return known[name, *narrower]

    return cells


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_a_claim_about_its_own_cells(name: str, cells_of: Any) -> None:
    claim, labels = claim_of(name), [cell.label for cell in cells_of(name, *NARROWER.get(name, ()))]
    assert {label["method"] for label in labels} <= set(claim.methods)
    assert len({label.get(claim.columns) for label in labels}) > 1
    assert claim.beside is None or claim.beside in EXPERIMENTS
    for statement in claim.statements:
        cases = {(label["model"], label["task"]) for label in labels}
        said = {(model, task) for model in statement.models for task in statement.benchmarks}
        assert cases <= said if name in NARROWER else said <= cases
        places = {(label["method"], label.get(claim.columns)) for label in labels}
        assert set(statement.check.needs()) <= places


@pytest.mark.parametrize(("name", "count"), PAPER.items())
def test_the_papers_experiments_have_the_papers_cells(name: str, count: int, cells_of: Any) -> None:
    """Every cell has its place in the paper's table; only Table 4 lacks the full cache."""
    cells, table = cells_of(name), claim_of(name).paper
    assert table is not None and len(cells) == count
    keys = {cell.fingerprint: paper.key_of(table, cell.label) for cell in cells}
    outside = [key for key in keys.values() if key is None or not paper.in_grid(table, key)]
    assert {key and key.method for key in outside} == ({"full"} if name == "table4_general" else set())
    assert {cell.label["rounding"] for cell in cells} <= {"paper", None}


def test_table_3_is_465_cells_in_15_jobs_and_figure_4_the_same_ones(cells_of: Any) -> None:
    cells = cells_of("table3_main")
    assert [len(job) for job in group_into_jobs(cells)] == [31] * 15
    assert params("figure4_curves") == params("table3_main")
    drawn = {cell.fingerprint for cell in cells_of("figure4_curves", *NARROWER["figure4_curves"])}
    assert len(drawn) == 31 and drawn < {cell.fingerprint for cell in cells}


def test_the_fair_version_differs_in_rounding_and_seeds_only(cells_of: Any) -> None:
    assert {**params("table3_exact"), "seed": None} == {**params("table3_main"), "seed": None}
    exact = [cell.label for cell in cells_of("table3_exact", *NARROWER["table3_exact"])]
    main = [cell.label for cell in cells_of("table3_main")]
    main = [label for label in main if (label["model"], label["task"]) == ("qwen2_vl_7b", "ocrbench")]
    assert len(exact) == 1 + 4 * 6 + 5 * 6
    strip = lambda label: {**label, "seed": None, "rounding": None}  # noqa: E731
    assert {str(strip(label)) for label in main} == {str(strip(label)) for label in exact}
    assert {label["seed"] for label in exact if label["method"] == "random"} == {0, 1, 2, 3, 4}
    assert {label["rounding"] for label in exact} == {"exact", None}


@pytest.mark.parametrize("name", [*PAPER, *NARROWER])
def test_the_papers_experiments_search_heads_on_the_papers_data(name: str, loader: ConfigLoader) -> None:
    """What find_heads=true reads must be SynthDoG, or no number of these could stand beside the paper's."""
    composed = loader.load_configuration("run", [f"+experiment={name}"], RunMode.MULTIRUN)
    assert composed.data["_target_"].endswith(".SynthDog")


def test_controls_draw_five_seeds(cells_of: Any) -> None:
    labels = [cell.label for cell in cells_of("controls")]
    seeds = {label["method"]: set[Any]() for label in labels}
    for label in labels:
        seeds[label["method"]].add(label["seed"])
    assert {method for method, found in seeds.items() if len(found) == 5} == {"permuted", "random"}
    assert set(seeds) > {"streamingllm", "headkv", "full", "snapkv", "sparsemm"}


class Printed(Numbers):
    """The paper's own numbers."""

    def __init__(self, claim: Claim, model: str, benchmark: str) -> None:
        self.claim, self.case = claim, (benchmark, model)

    def known(self, place: Place) -> float | None:
        method, column = place
        budget, rho = (256, float(column)) if self.claim.columns == "rho" else (column, None)
        return paper.value(str(self.claim.paper), *self.case, method, budget, rho)

    def score(self, place: Place) -> float:
        found = self.known(place)
        assert found is not None
        return found

    def positive(self, sums: Sequence[Sum]) -> list[bool]:
        return [sum(weight * self.score(place) for weight, place in terms) > 0 for terms in sums]

    def below(self, pairs: Sequence[Pair]) -> list[bool]:
        return [self.score(one) < self.score(other) - TOLERANCE for one, other in pairs]

    def describe(self, place: Place) -> str:
        return f"{place} {self.score(place)}"


CLAIMED = [(name, statement) for name in PAPER for statement in claim_of(name).statements]


@pytest.mark.parametrize(("name", "statement"), CLAIMED, ids=[s.sentence for _, s in CLAIMED])
def test_the_papers_own_numbers_support_what_is_said_of_them(name: str, statement: Statement) -> None:
    tested = 0
    for model in statement.models:
        for benchmark in statement.benchmarks:
            numbers = Printed(claim_of(name), model, benchmark)
            if all(numbers.known(place) is not None for place in statement.check.needs()):
                assert statement.check.failures(numbers) == []
                tested += 1
    assert tested >= min(8, len(statement.models) * len(statement.benchmarks))


def test_figure_4_has_a_row_of_panels_per_model_and_the_papers_points(cell: Maker, tmp_path: Path) -> None:
    claim = claim_of("figure4_curves")
    tables = {}
    for suffix in ("", " smoke"):
        results = [
            cell(f"{model}{suffix}", task, method, None if method == "full" else budget, 0.5)
            for model in ("llava_next_vicuna_7b", "llava_next_mistral_7b", "qwen2_vl_7b")
            for task in ("docvqa", "ocrbench", "textvqa", "chartqa", "textcaps")
            for method, budgets in (("full", (None,)), ("snapkv", (64, 256)), ("sparsemm", (64, 256)))
            for budget in budgets
        ]
        tables[suffix] = build_tables(results, (), claim)
    drawn = {
        suffix: draw(found, tmp_path, f"figure{suffix}")[1].read_text() for suffix, found in tables.items()
    }
    for text in drawn.values():
        assert text.count(">llava_next_vicuna_7b") == 1 and text.count(">textcaps (CIDEr)<") == 3
    assert "the paper (hollow, dotted)" in drawn[""]
    assert "the paper" not in drawn[" smoke"]
