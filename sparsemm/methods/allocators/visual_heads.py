"""Spend the cache where the visual heads are."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsemm.methods.base import Allocator, ModelShape
from sparsemm.methods.head_shares import check_rho, floor_and_share


@dataclass(frozen=True, kw_only=True, eq=False)
class VisualHeads(Allocator):
    """Give every KV head a floor, and share the rest by its visual score.

    Source: arXiv:2506.05344, Eq. 5-9.
    """

    head_scores: Tensor  # [L, Hq] float32, >= 0
    rho: float  # the floor's share of the capacity

    def __post_init__(self) -> None:
        check_rho(self.rho)
        if self.head_scores.dim() != 2:
            raise ValueError(
                f"head scores have shape {list(self.head_scores.shape)}: expected [layers, query heads]."
            )
        if not bool(torch.isfinite(self.head_scores).all()) or bool((self.head_scores < 0).any()):
            raise ValueError(
                "head scores: every score must be a number of at least 0. Find them again for this model."
            )
        if not bool((self.head_scores > 0).any()):
            raise ValueError(
                "head scores: all are zero, so there is no visual head. Find them again with more samples."
            )

    def check(self, shape: ModelShape) -> None:
        """Raise ValueError where the scores belong to a model of another shape."""
        if tuple(self.head_scores.shape) != (shape.layers, shape.query_heads):
            raise ValueError(
                f"model.head_scores has shape {list(self.head_scores.shape)}, but the model has "
                f"[{shape.layers}, {shape.query_heads}] (layers, query heads). Use the scores of this model."
            )

    def wishes(self, shape: ModelShape, candidates: int, capacity: int) -> Tensor:
        """[L, H] float64; see `Allocator.wishes`."""
        self.check(shape)
        return floor_and_share(self.head_scores, self.rho, shape, capacity)
