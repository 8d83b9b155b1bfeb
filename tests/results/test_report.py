"""The report: every format is written, the terminal says where and what is missing; the figure is drawn."""

from __future__ import annotations

import importlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sparsemm.results.figures import draw
from sparsemm.results.files import StorageError
from sparsemm.results.report import write_report
from sparsemm.results.tables import Claim, build_tables

Results = list[dict[str, Any]]
Maker = Callable[..., dict[str, Any]]


def test_report_writes_every_format_and_says_what_is_missing(
    grid: Results, make_label: Maker, tmp_path: Path
) -> None:
    expected = [result["label"] for result in grid] + [make_label("adakv", 8)]
    claim = Claim(title="A title", sentence="What it says.")
    text = write_report("demo", grid, expected, tmp_path / "demo", claim)
    assert text.startswith("A title\nWhat it says.\n1 of 26 cells not run yet.\n")
    for name in ("table.md", "table.csv", "table.tex", "figure.png", "figure.svg"):
        assert (tmp_path / "demo" / name).stat().st_size > 0
        assert str(tmp_path / "demo" / name) in text
    assert "1 of 26 cells not run yet." in (tmp_path / "demo" / "table.md").read_text()


def test_report_tells_cells_that_failed_from_those_that_were_not_run(
    grid: Results, make_label: Maker, tmp_path: Path
) -> None:
    broken, waiting = make_label("adakv", 8), make_label("adakv", 64)
    expected = [*(result["label"] for result in grid), broken, waiting]
    text = write_report("demo", grid, expected, tmp_path, failures=[(broken, "out of memory <b>")])
    said = "2 of 27 cells have no result: 1 failed, 1 not run yet."
    assert said in text and said in (page := (tmp_path / "page.html").read_text())
    assert page.count("failed: out of memory &lt;b&gt;</li>") == 1
    text = write_report("demo", grid, expected[:-1], tmp_path, failures=[(broken, "out of memory")])
    assert "1 of 26 cells have no result: 1 failed." in text


def test_same_results_give_the_same_files_in_any_order(grid: Results, tmp_path: Path) -> None:
    written = []
    for results in (grid, grid[::-1]):
        text = write_report("a", results, [], tmp_path)
        files = [
            (tmp_path / name).read_bytes() for name in ("table.md", "table.csv", "table.tex", "figure.svg")
        ]
        written.append((text, files))
    assert written[0] == written[1] and "not run yet" not in written[0][0]


def test_report_without_a_single_result_has_no_figure(make_label: Maker, tmp_path: Path) -> None:
    text = write_report("empty", [], [make_label("snapkv", 8)], tmp_path)
    assert "1 of 1 cells not run yet." in text and "figure" not in text
    assert not list(tmp_path.glob("figure*"))


def test_folder_that_cannot_be_written_is_named(grid: Results, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/demo.*: cannot write: .*output=FOLDER"):
        write_report("demo", grid, [], tmp_path / "file" / "demo")


def test_figure_has_a_panel_per_task_and_a_line_per_method(
    make: Maker, grid: Results, tmp_path: Path
) -> None:
    other = [{**result, "label": {**result["label"], "task": "charts"}} for result in grid]
    png, svg = draw(build_tables(grid + other), tmp_path)
    with Image.open(png) as picture:
        assert picture.width > 1200 and picture.height > 400
    words = {element.text for element in ElementTree.parse(svg).iter() if element.text}
    assert {"documents", "charts", "8", "64", "128", "SparseMM", "Random (5 seeds)", "Full cache"} <= words


def test_figure_draws_percent_budgets_mixed_budgets_and_many_rows(make: Maker, tmp_path: Path) -> None:
    percent = [make("snapkv", budget, 0.5) for budget in ("5%", "10%")]
    mixed = [
        make("sparsemm", budget, 0.5, rho=rho, task="mixed") for budget in (8, "10%") for rho in (0.1, 0.3)
    ]
    new = [make(f"new{number}", 8, 0.5, task="new") for number in range(9)]
    assert all(path.exists() for path in draw(build_tables(percent + mixed + new), tmp_path))


def test_quickstart_claim_names_known_methods() -> None:
    claim = importlib.import_module("sparsemm.experiments.quickstart").CLAIM
    assert claim.columns == "budget" and claim.methods[0] == "full" and "sparsemm" in claim.methods
