"""What a table says, and what it must never say."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsemm.results.frames import frame
from sparsemm.results.notes import notes
from sparsemm.results.render import latex, to_csv, to_latex, to_markdown, to_text
from sparsemm.results.tables import Claim, Table, budget_key, build_tables, missing_labels

Results = list[dict[str, Any]]
Maker = Callable[..., dict[str, Any]]


def only(results: Results, *args: Any) -> Table:
    (table,) = build_tables(results, *args)
    return table


def line(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(name))


def test_rows_are_methods_in_order_and_columns_are_budgets_in_order(grid: Results) -> None:
    table = only(list(reversed(grid)))
    names = [table.name(row) for row in table.rows]
    assert names == ["Full cache", "SnapKV", "PyramidKV", "SparseMM", "Random (5 seeds)"]
    assert table.columns == (8, 64, 128)


def test_budgets_sort_as_numbers_then_percentages() -> None:
    assert sorted(["100%", 64, "5%", 8, 128, "10%"], key=budget_key) == [8, 64, 128, "5%", "10%", "100%"]


def test_best_is_marked_and_a_difference_that_is_not_significant_as_well(grid: Results) -> None:
    text = to_text(only(grid))
    assert re.search(r"SparseMM\s+\S+\*\s", text)
    assert "~" in line(text, "SnapKV").split()[1]  # 2 of 40 documents apart
    assert "~" not in line(text, "PyramidKV").split()[1]  # far apart
    assert (
        "Holm-corrected over the table's 8 comparisons" in text
    )  # 3 at 8; 2 at 64, where two are best; 3 at 128


def test_full_cache_is_in_every_column_and_never_the_best(grid: Results) -> None:
    table = only(grid)
    assert not any(entry.best for (_, column), entry in table.entries.items() if column is None)
    assert len(set(line(to_text(table), "Full cache").split()[2:])) == 1
    assert "one run, shown in every column. It keeps 100 entries per head" in to_text(table)


def test_full_cache_alone_shows_what_it_keeps(grid: Results) -> None:
    text = to_text(only(grid[:1]))
    assert "Full cache: one run. It keeps 100 entries per head (100%, " in text


def test_columns_in_which_all_tie_have_no_best(grid: Results) -> None:
    table = only([result for result in grid if result["label"]["method"] != "random"])
    assert not any(entry.best for entry in table.column_entries(128).values())
    assert sum(entry.best for entry in table.column_entries(64).values()) == 2


def test_random_is_the_mean_over_its_seeds_with_an_interval(grid: Results) -> None:
    table = only(grid)
    (row,) = [row for row in table.rows if row.method == "random"]
    entry = table.entry(row, 8)
    scores = [r["score"] for r in grid if r["label"]["method"] == "random" and r["label"]["budget"] == 8]
    assert entry is not None and entry.score == pytest.approx(sum(scores) / 5)
    assert entry.low is not None and entry.high is not None
    assert entry.low < sum(scores) / 5 < entry.high
    assert not any("fewer than 5" in note for note in notes(table))


def test_fewer_than_five_seeds_is_said(grid: Results) -> None:
    table = only([r for r in grid if not (r["label"]["seed"] in (3, 4) and r["label"]["budget"] == 8)])
    assert "Random (5 seeds): fewer than 5 seeds at budget 8 (3)." in notes(table)


def test_missing_cells_are_dashes_and_counted(grid: Results, make_label: Maker) -> None:
    expected = [r["label"] for r in grid] + [make_label("adakv", b) for b in (8, 256)]
    table = only(grid, expected)
    assert len(missing_labels([r["label"] for r in grid], expected)) == 2
    assert line(to_text(table), "AdaKV").split() == ["AdaKV", "-", "-", "-", "-"]
    assert "-: no result yet." in to_text(table)
    assert "| AdaKV | - | - | - | - |" in to_markdown(table)
    assert frame([table]).query("method == 'adakv'")["score"].isna().all()


def test_table_with_no_results_at_all_still_shows_the_grid(make_label: Maker) -> None:
    table = only([], [make_label("full", None), make_label("snapkv", 8)])
    assert line(to_text(table), "SnapKV").split() == ["SnapKV", "-"]
    for render in (to_markdown, to_latex):
        assert "SnapKV" in render(table)


def test_what_varies_for_a_method_is_part_of_its_row_name(make: Maker) -> None:
    results = [make("sparsemm", 8, 0.5 + rho, rho=rho) for rho in (0.1, 0.3)] + [make("snapkv", 8, 0.5)]
    results.append(make("sparsemm", 8, 0.3, scorer="recent"))
    table = only(results)
    assert [table.name(row) for row in table.rows] == [
        "SnapKV",
        "SparseMM (scorer recent, rho 0.1)",
        "SparseMM (scorer window_attention, rho 0.1)",
        "SparseMM (scorer window_attention, rho 0.3)",
    ]


def test_another_key_can_be_the_columns(make: Maker) -> None:
    results = [make("sparsemm", 64, 0.5 + rho / 2, rho=rho) for rho in (0.1, 0.3, 0)] + [
        make("snapkv", 64, 0.6)
    ]
    table = only(results, [], Claim(title="rho", sentence="", columns="rho"))
    assert table.columns == (0, 0.1, 0.3)
    assert len(set(line(to_text(table), "SnapKV").split()[1:])) == 1


def test_window_that_is_the_budget_does_not_split_the_row(make: Maker) -> None:
    table = only([make("window", budget, 0.5, window=budget) for budget in (8, 16)])
    assert [table.name(row) for row in table.rows] == ["Window"]


def test_any_key_of_the_label_can_tell_rows_apart(make: Maker, make_label: Maker) -> None:
    results = [make("snapkv", 8, 0.5)]
    results[0]["label"]["pool_kernel"] = 5
    table = only(results, [results[0]["label"], make_label("snapkv", 8) | {"pool_kernel": 7}])
    assert [table.name(row) for row in table.rows] == ["SnapKV (pool_kernel 5)", "SnapKV (pool_kernel 7)"]
    assert line(to_text(table), "SnapKV (pool_kernel 7)").endswith("-")
    table = only(
        [make("random pool_kernel=3", 8, 0.5, seed=seed) for seed in range(5)] + [make("adakv", 8, 0.5)]
    )
    assert [table.name(row) for row in table.rows] == ["AdaKV", "Random (pool_kernel=3, 5 seeds)"]


def test_equal_entries_are_one_line_and_said_to_be_equal(grid: Results) -> None:
    text = to_text(only(grid))
    assert line(text, "Entries per head").split()[3:] == ["8", "64", "100"]
    assert "All methods keep the same number of entries in every column (rounding exact)." in text


def test_unequal_entries_are_shown_by_method_with_a_caution(make: Maker) -> None:
    text = to_text(only([make("snapkv", 64, 0.5), make("sparsemm", 64, 0.6, entries=62.5)]))
    assert line(text, "Entries per head, SnapKV").endswith("64")
    assert line(text, "Entries per head, SparseMM").endswith("62.5")
    assert (
        "CAUTION: methods do not keep the same number of entries (rounding exact) at budget 64: up to 1.5"
        in text
    )


def test_mixed_rounding_is_said(make: Maker) -> None:
    table = only([make("snapkv", 64, 0.5), make("sparsemm", 64, 0.6, rounding="paper")])
    assert any("rows mix rounding exact and paper" in note for note in notes(table))


def test_budgets_above_the_prompt_are_said_once(grid: Results) -> None:
    found = [note for note in notes(only(grid)) if "above the prompt" in note]
    assert found == ["budget 128: above the prompt, nothing is compressed."]


def test_mixed_devices_are_said(grid: Results) -> None:
    assert not any("devices" in note for note in notes(only(grid)))
    grid[1]["provenance"] = {"device": "NVIDIA H200"}
    assert any("NVIDIA H200 (1 places), cpu" in note for note in notes(only(grid)))


def test_failed_samples_are_flagged_with_their_reason(grid: Results) -> None:
    grid[1] |= {"failed": 2, "failures": ["d01/0: image cannot be read", "d02/1: image cannot be read"]}
    table = only(grid)
    assert line(to_text(table), "SparseMM").split()[1].endswith("*!")
    assert "†" in to_markdown(table) and r"$^{\dagger}$" in to_latex(table)
    assert "SparseMM at 8: 2 of 80 samples failed (d01/0: image cannot be read;" in to_text(table)


def test_cells_on_other_documents_are_not_tested_and_this_is_said(make: Maker) -> None:
    other = make("snapkv", 8, 0.4)
    other["documents"] = {**other["documents"], "ids_sha": "other"}
    table = only([make("sparsemm", 8, 0.6), other])
    assert table.comparisons == 0
    assert any(
        "Not tested against the best (other documents, or no score): SnapKV at 8." in n for n in notes(table)
    )


def test_cell_without_any_score_is_a_question_mark(make: Maker) -> None:
    empty = make(
        "snapkv",
        8,
        0.4,
        score=None,
        low=None,
        high=None,
        failed=80,
        failures=["d: no"],
        kept_share=None,
        entries_per_head=None,
    )
    empty["documents"] = {**empty["documents"], "scores": [None] * 40, "counts": [0] * 40}
    text = to_text(only([make("sparsemm", 8, 0.6), make("pyramidkv", 8, 0.5), empty]))
    assert line(text, "SnapKV").split()[1] == "?!"


def test_sizes_are_shown_and_differences_between_cells_listed(grid: Results) -> None:
    assert "n = 80 samples on 40 documents" in to_text(only(grid))
    grid[1]["samples"] = 60
    assert "n = 60 samples on 40 documents: SparseMM at 8." in to_text(only(grid))


def test_csv_comes_back_as_the_frame(grid: Results) -> None:
    tables = build_tables(grid)
    back = pd.read_csv(io.StringIO(to_csv(tables)), dtype={"budget": str, "fingerprints": str})
    pd.testing.assert_frame_equal(back, frame(tables), check_dtype=False)


def test_markdown_rows_have_as_many_columns_as_the_head(grid: Results) -> None:
    rows = [row for row in to_markdown(only(grid)).splitlines() if row.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    assert "**80.0** <sub>" in to_markdown(only(grid))


@settings(deadline=None)
@given(st.text(st.sampled_from("\\&%$#_{}~^<>|ab "), max_size=30))
def test_latex_escapes_every_command_character(text: str) -> None:
    left = re.sub(r"\\text[a-z]+\{\}|\\[&%$#_{}]", "", latex(text))
    assert not set(left) & set("\\&%$#_{}~^<>|")


def test_latex_table_is_balanced_and_escaped(make: Maker) -> None:
    results = [make("my_method&co", "10%", 0.5), make("snapkv", "10%", 0.6), make("snapkv", 8, 0.6)]
    text = to_latex(only(results))
    assert r"my\_method\&co" in text and r"10\%" in text
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert len({row.count("&") - row.count(r"\&") for row in text.splitlines() if row.endswith(r"\\")}) == 1
