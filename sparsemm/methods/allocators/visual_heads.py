"""Spend the cache where the visual heads are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparsemm.methods.base import Allocator, ModelShape
from sparsemm.methods.head_shares import check_fit, check_rho, check_scores, floor_and_share, kv_shares

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class VisualHeads(Allocator):
    """Give every KV head a floor, and share the rest by its visual score.

    Source: arXiv:2506.05344, Eq. 5-9.
    """

    head_scores: Tensor  # [L, Hq] float32, >= 0
    rho: float  # the floor's share of the capacity

    def __post_init__(self) -> None:
        check_rho(self.rho)
        check_scores(self.head_scores)

    def check(self, shape: ModelShape) -> None:
        """Raise ValueError where the scores belong to a model of another shape."""
        check_fit(self.head_scores, shape)

    def wishes(self, shape: ModelShape, candidates: int, capacity: int) -> Tensor:
        """[L, H] float64; see `Allocator.wishes`."""
        self.check(shape)
        return floor_and_share(kv_shares(self.head_scores, shape), self.rho, capacity)
