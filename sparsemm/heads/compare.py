"""How alike two sets of head scores are, and how few heads carry a score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

SHARES = (0.05, 0.1, 0.2, 0.5)  # of all heads, in the words of `describe`


@dataclass(frozen=True, kw_only=True)
class HeadsClaim:
    """What an experiment says of head scores; its grid is one of searches, not of cells."""

    title: str
    sentence: str


@dataclass(frozen=True)
class Comparison:
    """Two sets of scores of one model.

    Args:
        correlation: Spearman's, in [-1, 1]; not a number where one of the two is constant.
        overlap: share of the best heads of one that are among those of the other.
        heads: how many heads that was.
    """

    correlation: float
    overlap: float
    heads: int


def compare(one: Tensor, other: Tensor, share: float = 0.05) -> Comparison:
    """Compare scores [L, Hq]; `share` of all heads (at least one) are the best of each.

    Raises:
        ValueError: scores of models of different shapes.
    """
    if one.shape != other.shape:
        raise ValueError(
            f"head scores of shape {list(one.shape)} and {list(other.shape)} cannot be compared: they are of "
            "two models. Give files of one."
        )
    ranks = torch.stack([_ranks(one.flatten()), _ranks(other.flatten())])
    count = count_of(one, share)
    best = [
        set(torch.sort(each.flatten(), descending=True, stable=True).indices[:count].tolist())
        for each in (one, other)
    ]
    return Comparison(float(torch.corrcoef(ranks)[0, 1]), len(best[0] & best[1]) / count, count)


def count_of(scores: Tensor, share: float) -> int:
    """How many heads a share of all is; at least one."""
    return max(1, round(share * scores.numel()))


def cumulative(scores: Tensor) -> Tensor:
    """[L * Hq] float64: the share of the whole score that the best 1, 2, ... heads carry."""
    ordered = scores.double().flatten().sort(descending=True).values
    return ordered.cumsum(0) / ordered.sum()


def describe(scores: Tensor) -> str:
    """How concentrated scores are, in words."""
    curve = cumulative(scores)
    parts = []
    for share in SHARES:
        count = count_of(scores, share)
        parts.append(f"best {share:.0%} ({count}): {float(curve[count - 1]):.0%}")
    return f"{len(curve)} heads; of the whole score carry the " + ", ".join(parts)


def _ranks(values: Tensor) -> Tensor:
    """[N] float64, from 0; equal values share the mean of their places."""
    _, group, sizes = torch.unique(values, return_inverse=True, return_counts=True)
    last = sizes.cumsum(0).double() - 1
    middle: Tensor = last - (sizes.double() - 1) / 2
    return middle[group]
