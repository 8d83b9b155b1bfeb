"""The control: the same concentration rule with random head scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sparsemm.methods.base import Allocator, ModelShape
from sparsemm.methods.head_shares import check_rho, floor_and_share, kv_shares

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class RandomHeads(Allocator):
    """Visual-head allocation with scores drawn uniformly from [0, 1], once per model and seed.

    Source: the Random baseline of arXiv:2506.05344 (its code draws anew in every layer, so its total drifts).
    """

    seed: int
    rho: float

    def __post_init__(self) -> None:
        check_rho(self.rho)

    def wishes(self, shape: ModelShape, candidates: int, capacity: int) -> Tensor:
        """[L, H] float64; see `Allocator.wishes`."""
        generator = torch.Generator().manual_seed(self.seed)
        scores = torch.rand(shape.layers, shape.query_heads, generator=generator)
        return floor_and_share(kv_shares(scores, shape), self.rho, capacity)
