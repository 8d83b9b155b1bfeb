"""The statistics against known truths: coverage, hand-computed corrections, clusters that matter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsemm.results.statistics import (
    Floats,
    holm,
    interval,
    merge_seeds,
    paired_p_values,
    resampled_means,
    resamples_for,
    summarise,
)


def record(document: str, index: int, score: float | None, error: str | None = None) -> dict[str, Any]:
    kept = {"kept_entries": 100 + index, "kept_bytes": 1000}
    return {
        "sample": f"{document}/{index}",
        "document": document,
        "index": index,
        "score": score,
        "error": error,
    } | kept


def test_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    ones = np.ones(100)
    covered = 0
    for _ in range(200):
        low, high = interval((rng.random(100) < 0.7).astype(float), ones)
        covered += low <= 0.7 <= high
    assert 0.91 <= covered / 200 <= 0.98


def test_interval_resamples_documents_not_questions() -> None:
    """Ten questions that share their page's luck are worth one; as independent ones they cover too little."""
    pages = (np.random.default_rng(1).random((200, 40)) < 0.5).astype(float)
    questions = np.repeat(pages, 10, axis=1)

    def coverage(scores: Floats, counts: Floats) -> float:
        low, high = np.quantile(resampled_means(scores, counts, 1000), [0.025, 0.975], axis=0)
        return float(((low <= 0.5) & (high >= 0.5)).mean())

    assert coverage(pages, np.full_like(pages, 10)) >= 0.9
    assert coverage(questions, np.ones_like(questions)) <= 0.6


def test_bootstrap_spread_is_the_standard_error() -> None:
    scores = np.random.default_rng(2).random((3, 400))
    spread = resampled_means(scores, np.ones_like(scores)).std(0)
    np.testing.assert_allclose(spread, scores.std(1) / 20, rtol=0.03)


def test_means_weigh_documents_by_their_samples() -> None:
    scores = np.tile([1.0, 0.0, np.nan], 50)[None]
    counts = np.tile([3.0, 1.0, 0.0], 50)[None]
    assert resampled_means(scores, counts).mean() == pytest.approx(0.75, abs=0.01)
    few = resampled_means(scores[:, :3], counts[:, :3])  # some draw only the document without a score
    assert np.isfinite(few).all() and few.min() == 0 and few.max() == 1


def test_paired_test_sees_a_small_steady_difference_that_unpaired_intervals_hide() -> None:
    rng = np.random.default_rng(3)
    base = rng.random(200)
    scores = np.stack([base + 0.02 + rng.normal(0, 0.05, 200), base])
    means = resampled_means(scores, np.ones_like(scores))
    assert paired_p_values(means, best=0)[1] < 0.01
    (low, _), (_, high) = (interval(row, np.ones(200)) for row in scores)
    assert low < high  # the two intervals overlap


def test_equal_cells_have_p_1_and_hidden_truth_is_rejected_at_the_level() -> None:
    rng = np.random.default_rng(4)
    same = np.tile(rng.random(50), (2, 1))
    assert paired_p_values(resampled_means(same, np.ones_like(same)), 0)[1] == 1.0
    rejected = 0
    for _ in range(200):
        scores = rng.normal(0, 1, (2, 100))
        rejected += paired_p_values(resampled_means(scores, np.ones_like(scores), 2000), 0)[1] <= 0.05
    assert rejected / 200 <= 0.1


def test_holm_equals_the_example_by_hand() -> None:
    # sorted .005 .01 .03 .04, times 4 3 2 1: .02 .03 .06 .04, made monotone: .02 .03 .06 .06
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([]).size == 0


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_lies_between_no_correction_and_bonferroni_and_keeps_the_order(p: list[float]) -> None:
    adjusted, raw = holm(p), np.array(p)
    assert (adjusted >= raw).all() and (adjusted <= np.minimum(raw * len(p), 1) + 1e-12).all()
    assert (np.diff(adjusted[np.argsort(raw, kind="stable")]) >= 0).all()


def test_smallest_p_of_a_family_can_still_be_significant() -> None:
    for comparisons in (1, 30, 400, 900):
        assert 2 / (resamples_for(comparisons) + 1) * comparisons <= 0.05


def test_seeds_are_averaged_per_document() -> None:
    scores, counts = merge_seeds(
        np.array([[1.0, 0.0, np.nan], [0.0, 0.0, np.nan]]), np.array([[1, 2, 0], [3, 2, 0.0]])
    )
    np.testing.assert_allclose(scores, [0.25, 0.0, np.nan])
    np.testing.assert_allclose(counts, [2, 2, 0])


def test_summary_leaves_failed_samples_out_of_the_mean_and_counts_them() -> None:
    records = [
        record("b", 0, 1.0),
        record("b", 1, 0.0),
        record("a", 2, 1.0),
        record("c", 3, None, "no image"),
    ]
    summary = summarise(records)
    assert summary["score"] == pytest.approx(2 / 3)
    assert summary["low"] <= summary["score"] <= summary["high"]
    assert (summary["samples"], summary["failed"], summary["failures"]) == (4, 1, ["c/3: no image"])
    assert summary["documents"]["scores"] == [1.0, 0.5, None]
    assert summary["documents"]["counts"] == [1, 2, 0]
    assert summary["kept_entries"] == 101
    without = summarise([*records[:3], record("c", 3, 0.0)])
    assert without["documents"]["ids_sha"] == summary["documents"]["ids_sha"]
    assert summarise(reversed(records)) == summary


def test_summary_of_only_failures_has_no_score() -> None:
    summary = summarise([record("a", 0, None, "unreadable image")])
    assert summary["score"] is None and summary["failed"] == 1 and summary["kept_entries"] is None
    with pytest.raises(ValueError, match="at least one sample"):
        summarise([])
