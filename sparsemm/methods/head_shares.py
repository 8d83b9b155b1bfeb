"""Scores of query heads as shares of KV heads: for all allocators that spend the cache by head."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from sparsemm.methods.base import ModelShape

if TYPE_CHECKING:
    from torch import Tensor


def check_rho(rho: float) -> None:
    """Raise ValueError unless rho is a share."""
    if not 0 <= rho <= 1:
        raise ValueError(
            f"rho={rho}: must be between 0 and 1, the share that every head gets. The paper uses 0.1."
        )


def check_scores(scores: Tensor) -> None:
    """Raise ValueError unless `scores` (of torch or numpy) are [layers, query heads], >= 0, not all zero."""
    if scores.ndim != 2:
        raise ValueError(f"head scores have shape {list(scores.shape)}: expected [layers, query heads].")
    numbers = scores.flatten().tolist()
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise ValueError(
            "head scores: every score must be a number of at least 0. Find them again for this model."
        )
    if not any(numbers):
        raise ValueError(
            "head scores: all are zero, so there is no visual head. Find them again with more samples."
        )


def check_fit(scores: Tensor, shape: ModelShape) -> None:
    """Raise ValueError where the scores belong to a model of another shape."""
    if tuple(scores.shape) != (shape.layers, shape.query_heads):
        raise ValueError(
            f"model.head_scores has shape {list(scores.shape)}, but the model has "
            f"[{shape.layers}, {shape.query_heads}] (layers, query heads). Use the scores of this model."
        )


def kv_shares(scores: Tensor, shape: ModelShape) -> Tensor:
    """[L, H] float64 with sum 1: scores [L, Hq], summed over each GQA group (arXiv:2506.05344, Eq. 5-7)."""
    groups = scores.double().view(shape.layers, shape.kv_heads, shape.group).sum(2)
    return groups / groups.sum()


def floor_and_share(shares: Tensor, rho: float, capacity: int) -> Tensor:
    """[L, H] float64 wishes: a floor for every head, the rest by its share (arXiv:2506.05344, Eq. 8-9)."""
    floor = int(rho * capacity)
    layers, heads = shares.shape
    return floor + shares * (capacity - floor) * layers * heads
