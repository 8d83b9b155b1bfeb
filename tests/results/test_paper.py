"""The paper's numbers: every one is read as the file has it, on one scale, and nothing is invented."""

from __future__ import annotations

import csv
from collections.abc import Callable
from typing import Any

import pytest

from sparsemm.paths import resolve
from sparsemm.results import paper
from sparsemm.results.paper import Key

Maker = Callable[..., dict[str, Any]]
QWEN, MISTRAL, VICUNA = "qwen2_vl_7b", "llava_next_mistral_7b", "llava_next_vicuna_7b"
COMPONENTS = {"window": "window", "window+uniform": "snapkv", "window+uniform+score": "sparsemm"}


def rows(file: str) -> list[dict[str, str]]:
    with (resolve("pkg://sparsemm.data/paper") / file).open() as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize(
    ("table", "file", "units", "count"),
    [
        ("table1", "table1_rho.csv", 1, 24),
        ("table2", "table2_components.csv", 100, 18),
        ("table3", "table3_main.csv", 1, 376),
        ("table3", "figure4_full_cache.csv", 1, 15),
        ("table4", "table4_general.csv", 100, 90),
    ],
)
def test_every_number_of_a_file_is_found_as_a_fraction(table: str, file: str, units: int, count: int) -> None:
    raw = rows(file)
    assert len(raw) == count
    for row in raw:
        method = COMPONENTS[row["components"]] if "components" in row else row["method"]
        budget = int(row["budget"]) if "budget" in row else None
        rho = float(row["rho"]) if "rho" in row else None
        found = paper.value(table, row["benchmark"], row["model"], method, budget, rho)
        assert found == pytest.approx(float(row["score"]) / units, abs=1e-9)
        assert 0 < found < (2 if row["benchmark"] == "textcaps" else 1)


def test_the_same_cells_nearly_agree_between_tables() -> None:
    """Tables 2 and 4 differ by up to 0.34 points in the same cells: a wrong unit in either would show."""
    for budget in (512, 256, 128, 96, 64, 48):
        for method in ("snapkv", "sparsemm"):
            two, four = (paper.value(t, "mmbench", QWEN, method, budget) for t in ("table2", "table4"))
            assert two == pytest.approx(four, abs=0.0035)
    assert paper.value("table1", "ocrbench", QWEN, "sparsemm", 256, 0.1) == paper.value(
        "table3", "ocrbench", QWEN, "sparsemm", 256
    )


def test_reruns_are_found_by_source() -> None:
    raw = rows("reproductions.csv")
    assert len(raw) == 141
    for row in raw:
        key = Key(row["benchmark"], row["model"], row["method"], int(row["budget"]), None)
        assert paper.reruns("table3", key)[row["source"]] == float(row["score"])
    key = Key("docvqa", QWEN, "sparsemm", 256, None)
    assert paper.reruns("table3", key) == {"mixkv": 0.935, "bacon": 0.931}
    assert paper.reruns("table4", key) == {} and paper.rerun_sources() == ("mixkv", "bacon")


def test_what_is_not_legible_is_missing_and_in_the_grid() -> None:
    """Most of DocVQA is absent; a budget that the paper did not run is another thing."""
    absent, elsewhere = Key("docvqa", QWEN, "sparsemm", 256, None), Key("docvqa", QWEN, "sparsemm", 32, None)
    assert paper.published("table3", absent) is None and paper.in_grid("table3", absent)
    assert paper.published("table3", elsewhere) is None and not paper.in_grid("table3", elsewhere)
    assert paper.value("table4", "gqa", QWEN, "full") is None
    assert not paper.is_of("table4", "gqa", VICUNA) and not paper.is_of("table3", "documents", QWEN)


def test_digits_are_those_that_the_table_prints() -> None:
    assert paper.digits("table1", "ocrbench") == paper.digits("table3", "ocrbench") == 3
    assert paper.digits("table3", "textcaps") == 4
    assert paper.digits("table2", "mmbench") == 1 and paper.digits("table4", "mmbench") == 2


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(ValueError, match=r"paper=table9: must be one of table1, .*Name the paper's table"):
        paper.value("table9", "gqa", QWEN, "full")


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "snapkv pool_kernel=3"},
        {"scorer": "recent"},
        {"allocator": "pyramid"},
        {"window": 16},
        {"budget": "10%"},
        {"method": "streamingllm"},
        {"mask": "5.0% of the heads, visual, query zeroed"},
    ],
)
def test_a_method_that_is_set_up_differently_is_no_cell_of_the_paper(
    cell_label: Maker, changes: dict[str, Any]
) -> None:
    plain = cell_label(QWEN, "ocrbench", "snapkv", 64)
    assert paper.key_of("table3", plain) == Key("ocrbench", QWEN, "snapkv", 64, None)
    assert paper.key_of("table3", {**plain, **changes}) is None


def test_rho_belongs_to_table_1_and_is_fixed_elsewhere(cell_label: Maker) -> None:
    label = cell_label(VICUNA, "ocrbench", "sparsemm", 256, rho=0.3)
    assert paper.key_of("table1", label) == Key("ocrbench", VICUNA, "sparsemm", 256, 0.3)
    assert paper.key_of("table3", label) is None
    assert paper.key_of("table3", {**label, "rho": 0.1}) == Key("ocrbench", VICUNA, "sparsemm", 256, None)


def test_the_first_word_names_model_and_benchmark(cell_label: Maker) -> None:
    label = cell_label(f"{MISTRAL} smoke", "docvqa limit=4", "full", None)
    assert paper.key_of("table3", label) == Key("docvqa", MISTRAL, "full", None, None)
