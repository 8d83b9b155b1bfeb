"""Verdicts on the paper's claims: what supports one, what refutes one, and what is no test at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sparsemm.conf
import yaml

from sparsemm.results.entries import HEAD_SCORED
from sparsemm.results.report import write_report
from sparsemm.results.statements import Above, Keeps, NotBelow, Statement, Widens, pairs
from sparsemm.results.tables import Claim, build_tables
from sparsemm.results.verdicts import Verdict, judge

Maker = Callable[..., dict[str, Any]]
Results = list[dict[str, Any]]
QWEN, VICUNA = "qwen2_vl_7b", "llava_next_vicuna_7b"
BEST = Above(pairs("sparsemm", ("snapkv", "adakv"), (64, 128)))
GOOD = {("sparsemm", 64): 0.84, ("sparsemm", 128): 0.85, ("snapkv", 64): 0.6, ("snapkv", 128): 0.7}
GOOD |= {("adakv", 64): 0.61, ("adakv", 128): 0.72, ("full", None): 0.86}


def claim(check: Any = BEST, models: tuple[str, ...] = (QWEN,), **changes: Any) -> Claim:
    statement = Statement(sentence="It is so.", models=models, benchmarks=("ocrbench",), check=check)
    return Claim(**{"title": "", "sentence": "", "paper": "table3", "statements": (statement,), **changes})


def cells(cell: Maker, scores: dict[Any, float], **changes: Any) -> Results:
    place = {"model": QWEN, "task": "ocrbench", **changes}
    return [
        cell(**place, method=method, budget=budget, score=score) for (method, budget), score in scores.items()
    ]


def verdict(results: Results, one: Claim) -> Verdict:
    (found,) = judge(build_tables(results, (), one), one)
    return found


def test_a_claim_that_holds_everywhere_is_supported(cell: Maker) -> None:
    found = verdict(cells(cell, GOOD), claim())
    assert found == Verdict("It is so.", "supported", ("it holds in 1 of 1 case",))


def test_a_claim_that_fails_somewhere_is_not_supported_and_says_where(cell: Maker) -> None:
    found = verdict(cells(cell, {**GOOD, ("adakv", 128): 0.845}), claim())
    assert found.verdict == "not supported"
    assert found.reasons == (
        "it fails in 1 of 1 case",
        f"ocrbench with {QWEN}: SparseMM at budget 128 (0.850) is not significantly above AdaKV at "
        "budget 128 (0.845)",
    )


def test_one_failure_refutes_and_one_success_does_not_support(cell: Maker) -> None:
    both = claim(models=(QWEN, VICUNA))
    only_good = verdict(cells(cell, GOOD), both)
    assert only_good.verdict == "not tested"
    assert only_good.reasons == (
        "it holds in 1 of 2 cases",
        f"not run with the paper's model and benchmark: ocrbench with {VICUNA}",
    )
    only_bad = verdict(cells(cell, {**GOOD, ("snapkv", 64): 0.9}), both)
    assert only_bad.verdict == "not supported"
    assert only_bad.reasons[-1] == f"not run with the paper's model and benchmark: ocrbench with {VICUNA}"


def test_a_difference_that_is_not_significant_refutes_above_and_not_not_below(cell: Maker) -> None:
    close = {**GOOD, ("sparsemm", 64): 0.605}
    assert verdict(cells(cell, close), claim()).verdict == "not supported"
    at_least = NotBelow(pairs("sparsemm", ("snapkv", "adakv"), (64, 128)))
    assert verdict(cells(cell, close), claim(at_least)).verdict == "supported"
    far = verdict(cells(cell, {**GOOD, ("sparsemm", 64): 0.4}), claim(at_least))
    assert far.verdict == "not supported" and "(0.400) is below SnapKV at budget 64 (0.600)" in far.reasons[1]


def test_a_share_of_the_full_cache_is_kept_or_not(cell: Maker) -> None:
    keeps = claim(Keeps((("sparsemm", 64), ("sparsemm", 128)), of=("full", None), share=0.9))
    assert verdict(cells(cell, GOOD), keeps).verdict == "supported"
    found = verdict(cells(cell, {**GOOD, ("sparsemm", 64): 0.7}), keeps)
    assert found.reasons[1].endswith("SparseMM at budget 64 (0.700) is 81.4 % of Full cache (0.860)")
    close = verdict(cells(cell, {**GOOD, ("sparsemm", 64): 0.78}), keeps)
    assert close.verdict == "not supported"
    assert close.reasons[1].endswith("(0.780) is 90.7 % of Full cache (0.860), not significantly above 90 %")
    nothing = {("sparsemm", 64): 0.0, ("sparsemm", 128): 0.0, ("full", None): 0.0}
    assert verdict(cells(cell, nothing), keeps).verdict == "not supported"


def test_a_lead_widens_or_not(cell: Maker) -> None:
    widens = claim(Widens("sparsemm", "snapkv", here=64, than=128))
    assert verdict(cells(cell, GOOD), widens).verdict == "supported"
    found = verdict(cells(cell, {**GOOD, ("sparsemm", 64): 0.7}), widens)
    assert (
        found.verdict == "not supported"
        and "leads SnapKV at budget 64 (0.600) by no more" in found.reasons[1]
    )


def test_a_lead_that_is_larger_by_chance_is_not_supported(cell: Maker) -> None:
    chance = {**GOOD, ("sparsemm", 64): 0.765}
    found = verdict(cells(cell, chance), claim(Widens("sparsemm", "snapkv", here=64, than=128)))
    assert found.verdict == "not supported"
    assert "leads SnapKV at budget 64 (0.600) by no significantly more than" in found.reasons[1]


@pytest.mark.parametrize("found", ["synthetic-1/document-256x256", "coco/val2017/01", None])
def test_head_scores_that_are_not_the_papers_are_no_test(cell: Maker, found: str | None) -> None:
    """Of a result that does not say on what its head scores were found nothing is known."""
    results = cells(cell, GOOD)
    for result in results:
        if result["label"]["method"] == "sparsemm":
            result["head_data"] = found
    one = verdict(results, claim())
    reason = f"all 1 case: head scores found on {found or 'unknown data'}"
    assert (one.verdict, one.reasons) == ("not tested", (reason,))
    of_others = claim(NotBelow(pairs("snapkv", ("adakv",), (64,))))
    assert verdict(results, of_others).verdict == "supported"


def test_head_scores_found_on_the_papers_data_are_a_test(cell: Maker) -> None:
    results = cells(cell, GOOD)
    for result in results:
        if result["label"]["method"] == "sparsemm":
            result["head_data"] = "synthdog/0123456789abcdef"
    assert verdict(results, claim()).verdict == "supported"


def test_every_allocator_that_reads_head_scores_is_known_by_name() -> None:
    folder = Path(sparsemm.conf.__path__[0]) / "allocator"
    reading = {
        file.stem for file in folder.glob("*.yaml") if "head_scores" in yaml.safe_load(file.read_text())
    }
    assert reading == set(HEAD_SCORED)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"whole": False}, "not the whole benchmark (n = 400)"),
        ({"published": False}, "model or task not set up as published (protocol=paper, no other setting)"),
        ({"failed": 1, "failures": ["d1: no image"]}, "samples failed"),
        ({"rounding": "exact"}, "other settings than rounding paper and the paper's rho and window"),
        ({"window": 16}, "other settings than rounding paper and the paper's rho and window"),
        ({"task": "ocrbench limit=4"}, "ocrbench limit=4 is a variant of the paper's"),
        ({"model": f"{QWEN} smoke"}, "a small random model"),
        ({"model": f"{QWEN} jpeg=False"}, f"{QWEN} jpeg=False is a variant of the paper's"),
        ({"model": "tiny"}, "not run with the paper's model and benchmark"),
    ],
)
def test_other_conditions_than_the_papers_are_no_test(
    cell: Maker, changes: dict[str, Any], reason: str
) -> None:
    """Even where one of all cells is out of line, and whatever the scores say."""
    for scores in (GOOD, {**GOOD, ("snapkv", 64): 0.95}):
        results = cells(cell, scores, **changes)
        if "task" not in changes and "model" not in changes:
            results = [*cells(cell, scores)[:-2], *results[-2:]]
        found = verdict(results, claim())
        assert (found.verdict, found.reasons) == ("not tested", (f"all 1 case: {reason}",))


@pytest.mark.parametrize("key", ["whole", "published"])
def test_a_result_that_does_not_say_under_what_conditions_it_ran_is_no_test(cell: Maker, key: str) -> None:
    results = cells(cell, GOOD)
    for result in results:
        del result[key]
    assert verdict(results, claim()).verdict == "not tested"


def test_missing_cells_are_no_test(cell: Maker) -> None:
    some = {place: score for place, score in GOOD.items() if place != ("adakv", 64)}
    assert verdict(cells(cell, some), claim()).reasons == ("all 1 case: 1 of 6 cells not run",)


def test_cells_over_other_documents_are_no_test(cell: Maker) -> None:
    results = cells(cell, GOOD)
    results[0]["documents"] = {**results[0]["documents"], "ids_sha": "other"}
    assert verdict(results, claim()).reasons == ("all 1 case: the cells were asked different documents",)


def test_the_fair_version_rests_on_exact_cells(cell: Maker) -> None:
    exact = cells(cell, GOOD, rounding="exact")
    for result in exact:
        result["label"]["rounding"] = None if result["label"]["method"] == "full" else "exact"
    assert verdict(exact, claim(rounding="exact")).verdict == "supported"
    assert verdict(exact, claim()).verdict == "not tested"


def test_the_report_says_the_verdicts_in_every_text(cell: Maker, tmp_path: Path) -> None:
    text = write_report("a", cells(cell, GOOD), [], tmp_path, claim())
    assert "  supported: It is so.\n    - it holds in 1 of 1 case\n" in text
    assert "- **supported**: It is so.\n  - it holds in 1 of 1 case\n" in (tmp_path / "table.md").read_text()
    assert (
        r"\item \textbf{supported}: It is so. (it holds in 1 of 1 case)"
        in (tmp_path / "table.tex").read_text()
    )


def test_where_the_figure_is_the_product_the_tables_stay_in_files(cell: Maker, tmp_path: Path) -> None:
    text = write_report("a", cells(cell, GOOD), [], tmp_path, claim(figure=True))
    assert "Entries per head" not in text and "figure.png" in text and "supported" in text
    assert "Entries per head" in (tmp_path / "table.md").read_text()
