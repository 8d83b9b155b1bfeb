"""The sharper control: SparseMM's own scores, given to other heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sparsemm.methods.allocators.visual_heads import VisualHeads
from sparsemm.methods.base import ModelShape
from sparsemm.methods.head_shares import floor_and_share, kv_shares

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class PermutedHeads(VisualHeads):
    """Visual-head allocation with the scores of the KV heads permuted over all layers and heads.

    Scores are summed over each GQA group first, so that the budgets are SparseMM's own, as unequal as they
    are there: only which head gets which is drawn. Random scores (`RandomHeads`) are nearly equal after
    that sum and test the concentration; this tests whether the visual heads are the right ones.
    """

    seed: int  # of the permutation

    def wishes(self, shape: ModelShape, candidates: int, capacity: int) -> Tensor:
        """[L, H] float64; see `Allocator.wishes`."""
        self.check(shape)
        shares = kv_shares(self.head_scores, shape)
        order = torch.randperm(shares.numel(), generator=torch.Generator().manual_seed(self.seed))
        return floor_and_share(shares.flatten()[order].view_as(shares), self.rho, capacity)
