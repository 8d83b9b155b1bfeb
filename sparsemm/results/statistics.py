"""Intervals and paired tests that resample documents, not questions: those on one page are not independent.

Every cell over the same number of documents is resampled with the same weights, so cells can be compared in
pairs, and a whole table is one matrix product. The seed is fixed: the same records give the same numbers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 10_000
MOST_RESAMPLES = 40_000
LEVEL = 0.05  # of the tests; intervals hold 1 - LEVEL
SEED = 20250605
BLOCK = 1_000  # resamples drawn from one state of the generator
MOST_WEIGHTS = (
    4_000_000  # multiplied at once: few large products, as threads of many small ones wait on each other
)
EQUAL = 1e-12  # means closer than this are equal: they differ by rounding only


@lru_cache(maxsize=64)
def _weights(documents: int, block: int) -> NDArray[np.uint8]:
    """[BLOCK, documents]: how often every resample draws every document."""
    draws = np.random.default_rng([SEED, documents, block]).integers(0, documents, (BLOCK, documents))
    flat = (draws + np.arange(BLOCK)[:, None] * documents).ravel()
    return np.bincount(flat, minlength=BLOCK * documents).reshape(BLOCK, documents).astype(np.uint8)


@lru_cache(maxsize=2)
def _multipliers(documents: int, first: int, end: int) -> Floats:
    """[rows, documents]: the weights of some blocks, as matrix products want them."""
    return np.concatenate([_weights(documents, block) for block in range(first, end)], dtype=np.float64)


def resampled_means(scores: Floats, counts: Floats, resamples: int = RESAMPLES) -> Floats:
    """Mean score of every cell in every resample.

    scores, counts: [cells, documents], mean score and number of samples per document (0: score ignored).
    Returns [resamples, cells].
    """
    documents = scores.shape[1]
    totals = np.where(counts > 0, scores, 0.0) * counts
    if (counts == counts[0]).all():  # as where no sample failed; sorting rows is the slower way
        kinds, kind_of = counts[:1], np.zeros(len(counts), np.intp)
    else:
        kinds, kind_of = np.unique(counts, axis=0, return_inverse=True)
    overall = totals.sum(1) / counts.sum(1)
    means = np.empty((resamples, len(scores)))
    even = (
        len(kinds) == 1 and (kinds == kinds[0, 0]).all()
    )  # then every resample has the same number of samples
    blocks = max(1, MOST_WEIGHTS // (BLOCK * documents))
    for start in range(0, resamples, blocks * BLOCK):
        stop = min(start + blocks * BLOCK, resamples)
        weights = _multipliers(documents, start // BLOCK, -(-stop // BLOCK))[: stop - start]
        if even:
            np.matmul(weights, totals.T / kinds.sum(), out=means[start:stop])
        else:
            drawn = (weights @ kinds.T)[:, kind_of.ravel()]
            sums = weights @ totals.T
            means[start:stop] = np.where(drawn > 0, sums / np.maximum(drawn, 1e-9), overall)
    return means


def interval(scores: Floats, counts: Floats) -> tuple[float, float]:
    """Bootstrap 95 % interval (percentiles) of one cell's mean; scores, counts: [documents]."""
    low, high = intervals(resampled_means(scores[None], counts[None]))
    return float(low[0]), float(high[0])


def intervals(means: Floats) -> tuple[Floats, Floats]:
    """Percentile 95 % intervals of many cells, from resampled_means; lows [cells], highs [cells]."""
    low, high = np.quantile(means, [LEVEL / 2, 1 - LEVEL / 2], axis=0)
    return np.round(low, 9), np.round(high, 9)


def paired_p_values(means: Floats, best: int) -> Floats:
    """Two-sided p of every cell against cell `best`, from resampled_means; [cells], 1 at `best` itself.

    p is twice the smaller share of resamples in which the difference has, or crosses, zero.
    """
    differences = means - means[:, [best]]
    above = (differences >= -EQUAL).sum(0)
    below = (differences <= EQUAL).sum(0)
    p: Floats = np.minimum(1.0, 2.0 * (np.minimum(above, below) + 1) / (len(means) + 1))
    p[best] = 1.0
    return p


def holm(p_values: Sequence[float] | Floats) -> Floats:
    """Adjust p values for their number (Holm's step-down method); reject where the result is <= the level."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    steps = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def resamples_for(comparisons: int) -> int:
    """Enough resamples for the smallest p, times the number of comparisons, to stay under the level."""
    return min(MOST_RESAMPLES, max(RESAMPLES, math.ceil(4 * comparisons / LEVEL / BLOCK) * BLOCK))


def merge_seeds(scores: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """Average the seeds of one cell per document; [seeds, documents] -> two arrays [documents]."""
    total = counts.sum(0)
    sums = (np.where(counts > 0, scores, 0.0) * counts).sum(0)
    merged = np.divide(sums, total, out=np.full(len(total), np.nan), where=total > 0)
    return merged, total / len(scores)


def summarise(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Score, interval and per-document means of a cell from its merged sample records.

    A sample with an error has no score: it counts in `samples` and `failed` and in no mean. A document whose
    samples all failed keeps its place, with score null and count 0: cells stay comparable in pairs. A sample
    without a score and without an error has no share in it, such as a rotation of another's options.
    """
    ordered = list(records)
    if not ordered:
        raise ValueError("records=[]: a cell needs at least one sample. Check the task's limit.")
    failed = [record for record in ordered if record["error"] is not None]
    answered = [record for record in ordered if record["error"] is None]
    by_document: dict[str, list[float]] = {str(record["document"]): [] for record in ordered}
    good = [record for record in answered if record["score"] is not None]
    for record in good:
        by_document[str(record["document"])].append(float(record["score"]))
    names = sorted(by_document)
    counts = [len(by_document[name]) for name in names]
    scores = [
        math.fsum(by_document[name]) / count if count else None
        for name, count in zip(names, counts, strict=True)
    ]
    summary: dict[str, Any] = {"score": None, "low": None, "high": None}
    if good:
        low, high = interval(np.array(scores, np.float64), np.array(counts, np.float64))
        score = math.fsum(float(record["score"]) for record in good) / len(good)
        summary = {"score": score, "low": low, "high": high}
    return {
        **summary,
        "samples": len(ordered),
        "failed": len(failed),
        "failures": [f"{record['sample']}: {record['error']}" for record in failed[:5]],
        "documents": {
            "ids_sha": hashlib.sha256("\n".join(names).encode()).hexdigest(),
            "scores": scores,
            "counts": counts,
        },
        "kept_entries": _mean(answered, "kept_entries"),
        "kept_bytes": _mean(answered, "kept_bytes"),
    }


def _mean(records: list[Mapping[str, Any]], key: str) -> float | None:
    return math.fsum(record[key] for record in records) / len(records) if records else None
