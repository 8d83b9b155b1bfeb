"""Head masks: query heads that are switched off in prompt and answer, to see what they were good for.

A mask is a control, not a compression: it changes the prefill, so masked cells share none with others.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from sparsemm.methods.base import ModelShape
from sparsemm.methods.head_shares import check_fit, check_scores

if TYPE_CHECKING:
    from torch import Tensor

Zero = Literal["query", "output"]


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadMask(ABC):
    """Which query heads are switched off, and how; the share is rounded to whole heads.

    zero=query sets their queries to zero, as the published code of arXiv:2506.05344 does: they attend to all
    that they may see alike, and their part in the ranking of tokens is as flat. zero=output leaves attention
    and ranking as they are and drops what the heads have read, the other usual ablation.

    Raises:
        ValueError: a share that is no share, or an unknown `zero`.
    """

    share: float  # of all query heads of the model, in (0, 1]
    zero: Zero

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(
                f"mask.share={self.share}: must be above 0 and at most 1, a share of all query heads. "
                "For no mask set mask=none."
            )
        if self.zero not in ("query", "output"):
            raise ValueError(f"mask.zero={self.zero}: must be query or output.")

    @abstractmethod
    def order(self, shape: ModelShape) -> Tensor:
        """Flat indices (layer * Hq + head) of heads; the first `count` are switched off."""

    def count(self, shape: ModelShape) -> int:
        """Heads that are switched off."""
        return round(self.share * shape.layers * shape.query_heads)

    def heads(self, shape: ModelShape) -> Tensor:
        """[L, Hq] bool: True where a head is switched off; errors as `check`."""
        self.check(shape)
        mask = torch.zeros(shape.layers * shape.query_heads, dtype=torch.bool)
        mask[self.order(shape)[: self.count(shape)]] = True
        return mask.view(shape.layers, shape.query_heads)

    def check(self, shape: ModelShape) -> None:
        """Raise ValueError where this mask does not fit the model."""
        if self.count(shape) < 1:
            raise ValueError(
                f"mask.share={self.share}: of {shape.layers * shape.query_heads} query heads that is none. "
                "Raise mask.share."
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class NoMask(HeadMask):
    """All heads work; share and zero are there for grids that sweep them beside other masks, and ignored."""

    share: float = 0.0
    zero: Zero = "query"

    def __post_init__(self) -> None:
        """No share to look at."""

    def check(self, shape: ModelShape) -> None:
        """Every model fits."""

    def order(self, shape: ModelShape) -> Tensor:
        """No head."""
        return torch.empty(0, dtype=torch.long)


@dataclass(frozen=True, kw_only=True, eq=False)
class VisualHeadMask(HeadMask):
    """Switches off the heads with the highest visual scores; ties go to the lower layer and head."""

    head_scores: Tensor  # [L, Hq] float32, >= 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scores(self.head_scores)

    def check(self, shape: ModelShape) -> None:
        """Raise ValueError where the scores or the share do not fit the model."""
        check_fit(self.head_scores, shape)
        super().check(shape)

    def order(self, shape: ModelShape) -> Tensor:
        """All heads, the most visual first."""
        return _by_score(self.head_scores)


@dataclass(frozen=True, kw_only=True, eq=False)
class RandomHeadMask(HeadMask):
    """Switches off as many heads, drawn at random: the control for VisualHeadMask."""

    seed: int
    spared: Tensor | None = (
        None  # [L, Hq] visual scores whose top `share` is not drawn; None: any head may be
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.spared is not None:
            check_scores(self.spared)

    def check(self, shape: ModelShape) -> None:
        """Raise ValueError where the scores or the share do not fit the model."""
        super().check(shape)
        if self.spared is None:
            return
        check_fit(self.spared, shape)
        heads, count = math.prod(self.spared.shape), self.count(shape)
        if 2 * count > heads:
            raise ValueError(
                f"mask.share={self.share}: {count} heads are to be drawn, but {heads - count} of {heads} "
                "are left beside the most visual. Lower mask.share, or set mask.spared=null."
            )

    def order(self, shape: ModelShape) -> Tensor:
        """The heads that may be drawn, in the order of the draw."""
        drawn = torch.randperm(
            shape.layers * shape.query_heads, generator=torch.Generator().manual_seed(self.seed)
        )
        if self.spared is None:
            return drawn
        return drawn[~torch.isin(drawn, _by_score(self.spared)[: self.count(shape)])]


def _by_score(scores: Tensor) -> Tensor:
    return scores.flatten().sort(descending=True, stable=True).indices
