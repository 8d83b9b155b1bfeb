"""What stands beside our scores: the paper's, the difference, reruns and the sibling experiment's."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from sparsemm.results import compare
from sparsemm.results.notes import notes
from sparsemm.results.render import to_csv, to_latex, to_markdown, to_text
from sparsemm.results.tables import Claim, Table, build_tables

Maker = Callable[..., dict[str, Any]]
QWEN, VICUNA = "qwen2_vl_7b", "llava_next_vicuna_7b"
TABLE3 = Claim(title="", sentence="", paper="table3", beside="table3_exact")
BUDGETS = (64, 128, 256, 512, 1024, 2048)


def only(results: list[dict[str, Any]], claim: Claim = TABLE3, **more: Any) -> Table:
    (table,) = build_tables(results, more.pop("expected", ()), claim, **more)
    return table


def below(text: str, method: str) -> dict[str, list[str]]:
    """The method's line and those below it, by name."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith(method):
            found[method] = line[len(method) :].split()
        elif found and line.startswith("  "):
            name, *texts = re.split(r"\s{2,}", line.strip())
            found[name] = texts
        elif found:
            break
    return found


def test_difference_is_ours_minus_the_papers_on_the_papers_scale(cell: Maker) -> None:
    table = only([cell(QWEN, "ocrbench", "snapkv", 64, 0.65), cell(QWEN, "ocrbench", "snapkv", 128, 0.7)])
    lines = below(to_text(table), "SnapKV")
    assert lines["SnapKV"] == ["0.650", "0.700"]
    assert lines["paper"] == ["0.624", "0.719"]
    assert lines["difference"] == ["+0.026", "-0.019"]
    assert lines["rerun mixkv"] == ["0.624", "0.719"]
    assert "rerun bacon" not in lines  # has no OCRBench


def test_percent_tables_are_shown_in_percent_and_stored_as_fractions(cell: Maker) -> None:
    table = only([cell(QWEN, "gqa", "sparsemm", 64, 0.6)], Claim(title="", sentence="", paper="table4"))
    assert "gqa (accuracy, %)" in to_text(table)
    lines = below(to_text(table), "SparseMM")
    assert (lines["SparseMM"], lines["paper"], lines["difference"]) == (["60.00"], ["62.48"], ["-2.48"])
    (line,) = pd.read_csv(io.StringIO(to_csv([table]))).to_dict("records")
    assert line["score"] == 0.6 and line["paper"] == 0.6248
    assert line["difference"] == pytest.approx(-0.0248)


def test_full_cache_has_the_figures_number_with_its_digits(cell: Maker) -> None:
    results = [cell(VICUNA, "docvqa", "full", None, 0.7), cell(VICUNA, "docvqa", "snapkv", 256, 0.6)]
    lines = below(to_text(only(results)), "Full cache")
    assert lines["paper, Figure 4"] == ["0.685"] and lines["difference"] == ["+0.015"]


def test_places_without_a_number_of_the_paper_say_why(cell: Maker) -> None:
    results = [cell(QWEN, "docvqa", "sparsemm", budget, 0.9) for budget in (32, 64, 256)]
    results += [cell(QWEN, "docvqa", "random", 64, 0.5, seed=0)]
    text = to_text(only(results))
    lines = below(text, "SparseMM")
    assert lines["paper"] == ["n/p", "n/l", "n/l"] and "difference" not in lines
    assert lines["rerun bacon"] == ["0.873", "0.931"]
    assert "n/p: not printed in the paper." in text
    assert "n/l: in the paper's table, but not legible in the copy" in text


def test_cells_that_were_not_run_show_the_papers_number_and_no_difference(
    cell: Maker, cell_label: Maker
) -> None:
    expected = [cell_label(QWEN, "ocrbench", "snapkv", budget) for budget in (64, 128)]
    text = to_text(only([cell(QWEN, "ocrbench", "snapkv", 64, 0.63)], expected=expected))
    lines = below(text, "SnapKV")
    assert lines["SnapKV"] == ["0.630", "-"] and lines["paper"] == ["0.624", "0.719"]
    assert lines["difference"] == ["+0.006"] and "-: no result yet." in text
    empty = to_text(only([], expected=expected))
    assert below(empty, "SnapKV")["paper"] == ["0.624", "0.719"]


def test_smoke_models_show_the_papers_numbers_and_no_difference(cell: Maker) -> None:
    table = only([cell(f"{QWEN} smoke", "ocrbench", "snapkv", 64, 0.1)])
    lines = below(to_text(table), "SnapKV")
    assert lines["paper"] == ["0.624"] and "difference" not in lines
    said = " ".join(notes(table))
    assert "small random model" in said and "not comparable, so no difference is computed" in said
    (line,) = pd.read_csv(io.StringIO(to_csv([table]))).to_dict("records")
    assert line["paper"] == 0.624 and pd.isna(line["difference"])


def test_a_variant_of_the_model_or_the_benchmark_is_not_comparable(cell: Maker) -> None:
    for model, task in ((f"{QWEN} jpeg=False", "ocrbench"), (QWEN, "ocrbench limit=9")):
        table = only([cell(model, task, "snapkv", 64, 0.6)])
        assert any(f"{model if ' ' in model else task} is not what the paper ran" in n for n in notes(table))
        assert compare.difference(table, table.rows[0], 64) is None


def test_cells_that_are_not_set_up_as_published_have_no_difference(cell: Maker) -> None:
    """Nor have stored results that do not say how they were set up."""
    published = cell(QWEN, "ocrbench", "snapkv", 64, 0.6)
    other = cell(QWEN, "ocrbench", "snapkv", 128, 0.7, published=False)
    silent = cell(QWEN, "ocrbench", "snapkv", 256, 0.7)
    del silent["published"]
    for results, which in (
        ([published], None),
        ([published, other], "1 of these 2 cells are not set up as published (protocol=paper and no other"),
        (
            [other, silent],
            "These cells are not set up as published (protocol=paper and no other setting), so",
        ),
    ):
        table = only(results)
        said = [note for note in notes(table) if "not set up as published" in note]
        assert len(said) == (which is not None) and all(note.startswith(str(which)) for note in said)
        shown = {column: compare.difference(table, table.rows[0], column) for column in table.columns}
        assert [column for column, apart in shown.items() if apart is not None] == [64] * (
            published in results
        )
    assert "difference" not in below(to_text(table), "SnapKV")
    assert below(to_text(table), "SnapKV")["paper"] == ["0.719", "0.773"]


def test_head_scores_that_are_not_the_papers_leave_no_difference(cell: Maker) -> None:
    for found, apart in (
        ("imported from visual_head.json, sha256 01", True),
        ("synthdog/0123456789abcdef", True),
        ("synthetic-1/document-256x256", False),
        (None, False),
    ):
        ours = cell(QWEN, "ocrbench", "sparsemm", 64, 0.6, head_data=found)
        table = only([ours, cell(QWEN, "ocrbench", "snapkv", 64, 0.6)])
        lines = {name: below(to_text(table), name) for name in ("SparseMM", "SnapKV")}
        assert ("difference" in lines["SparseMM"]) == apart and "difference" in lines["SnapKV"]
        said = " ".join(notes(table))
        assert f"Head scores of SparseMM: {found or 'unknown data'}." in said
        assert (f"these were found on {found or 'unknown data'}, so no difference" in said) == (not apart)


def test_models_that_the_paper_did_not_run_have_no_lines_below(cell: Maker) -> None:
    table = only([cell("qwen2_5_vl_7b", "ocrbench", "snapkv", 64, 0.6)])
    assert below(to_text(table), "SnapKV") == {"SnapKV": ["60.0"]}
    assert "The paper has no numbers for ocrbench with qwen2_5_vl_7b in this table." in notes(table)
    assert "paper" not in to_csv([table]).splitlines()[0].split(",")


def test_part_of_a_benchmark_and_another_rounding_are_said(cell: Maker) -> None:
    whole = only([cell(QWEN, "ocrbench", "snapkv", 64, 0.6)])
    part = only([cell(QWEN, "ocrbench", "snapkv", 64, 0.6, whole=False)])
    exact = only([cell(QWEN, "ocrbench", "snapkv", 64, 0.6, rounding="exact")])
    found = [
        [n for n in notes(t) if "not every document" in n or "another rounding" in n]
        for t in (whole, part, exact)
    ]
    assert [len(one) for one in found] == [0, 1, 1] and found[1] != found[2]


def test_the_port_of_llava_is_said_once_and_for_llava_only(cell: Maker) -> None:
    said = {
        model: sum(
            "Hugging Face port" in n for n in notes(only([cell(model, "ocrbench", "snapkv", 64, 0.6)]))
        )
        for model in (QWEN, VICUNA)
    }
    assert said == {QWEN: 0, VICUNA: 1}


def test_the_sibling_experiment_stands_beside_with_its_entries(cell: Maker) -> None:
    results = [cell(QWEN, "ocrbench", "random", 64, 0.5, seed=0), cell(QWEN, "ocrbench", "snapkv", 64, 0.6)]
    exact = [
        cell(
            QWEN,
            "ocrbench",
            "random",
            64,
            (0.4, 0.5, 0.6, 0.7, 0.8)[seed],
            seed=seed,
            rounding="exact",
            entries_per_head=63.5,
        )
        for seed in range(5)
    ]
    exact += [cell(QWEN, "ocrbench", "adakv", 64, 0.9, rounding="exact")]
    table = only(results, beside_results=exact)
    text = to_text(table)
    assert below(text, "Random (1 seed)")["exact (5 seeds)"] == ["0.600"]
    assert "exact" not in below(text, "SnapKV") and "AdaKV" not in text
    assert re.search(r"Entries per head \(exact\)\s+63.5\n", text)
    lines = pd.read_csv(io.StringIO(to_csv([table]))).set_index("method")
    assert lines["exact"]["random"] == pytest.approx(0.6) and pd.isna(lines["exact"]["snapkv"])


def test_sibling_cells_under_other_conditions_stay_out(cell: Maker) -> None:
    """The store may hold them with the same label: a smaller sample, smaller images."""
    whole, part = ({"model": {"max_pixels": 9}, "task": {"limit": limit}} for limit in (None, 4))
    results = [cell(QWEN, "ocrbench", "snapkv", 64, 0.6, identity=whole)]
    exact = [
        cell(QWEN, "ocrbench", "snapkv", 64, score, rounding="exact", identity=identity)
        for score, identity in ((0.5, whole), (0.9, part))
    ]
    for found in (exact, exact[::-1]):
        assert below(to_text(only(results, beside_results=found)), "SnapKV")["exact"] == ["0.500"]
    assert "exact" not in below(to_text(only(results, beside_results=exact[1:])), "SnapKV")


def test_without_a_claim_on_the_paper_nothing_stands_beside(cell: Maker) -> None:
    results = [cell(QWEN, "ocrbench", "snapkv", 64, 0.6)]
    table = only(results, Claim(title="", sentence=""), beside_results=results)
    assert below(to_text(table), "SnapKV") == {"SnapKV": ["60.0"]}
    assert to_csv([table]).splitlines()[0].endswith(",fingerprints")


def test_csv_names_what_stands_beside(cell: Maker) -> None:
    results = [cell(QWEN, "docvqa", "snapkv", 128, 0.8)]
    (line,) = pd.read_csv(
        io.StringIO(to_csv([only(results, beside_results=[cell(QWEN, "docvqa", "snapkv", 128, 0.9)])]))
    ).to_dict("records")
    names = ("exact", "paper", "difference", "rerun_mixkv", "rerun_bacon")
    assert [line[name] for name in names] == [0.9, 0.8012, pytest.approx(-0.0012), 0.801, 0.821]


def test_markdown_and_latex_escape_what_stands_beside(cell: Maker) -> None:
    results = [cell(VICUNA, "docvqa", method, 64, 0.6) for method in ("sparsemm", "snapkv")]
    results += [cell(VICUNA, "docvqa", "full", None, 0.6)]
    table = only(results, beside_results=results)
    markdown, tex = to_markdown(table), to_latex(table)
    assert "| &nbsp; paper | 0.6377 |" in markdown and "| &nbsp; difference | -0.0377 |" in markdown
    assert r"\quad paper & 0.6377 \\" in tex and r"\quad difference & $-$0.0377 \\" in tex
    assert r"llava\_next\_vicuna\_7b" in tex
    heads = {row.count("|") for row in markdown.splitlines() if row.startswith("|")}
    assert len(heads) == 1
    ands = {row.count("&") - row.count(r"\&") for row in tex.splitlines() if row.endswith(r"\\")}
    assert len(ands) == 1


def test_six_budgets_and_six_methods_fit_a_terminal(cell: Maker) -> None:
    methods = ("snapkv", "pyramidkv", "adakv", "sparsemm", "random")
    results = [
        cell(VICUNA, "textcaps", method, budget, 0.5, entries_per_head=budget - 0.25 * place)
        for place, method in enumerate(methods)
        for budget in BUDGETS
    ]
    results += [cell(VICUNA, "textcaps", "full", None, 0.7)]
    text = to_text(only(results, beside_results=results))
    assert max(map(len, text.splitlines())) <= 110
    assert "Entries per head, SparseMM" in text
