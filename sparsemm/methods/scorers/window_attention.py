"""Rank tokens by the attention that the last queries of the prompt pay them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparsemm.methods.base import Scorer

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class WindowAttention(Scorer):
    """Attention of the window's queries, averaged over queries and GQA group, then pooled over neighbours.

    With the uniform allocator it keeps what SnapKVPress of kvpress 0.5.5 keeps at the same budget, entry
    by entry (kvpress averages after pooling, so only ties can fall otherwise).

    Source: SnapKV (arXiv:2404.14469) with the settings of arXiv:2506.05344, section 4.1.
    """

    pool_kernel: int  # tokens, odd

    def __post_init__(self) -> None:
        if self.pool_kernel < 1 or self.pool_kernel % 2 == 0:
            raise ValueError(
                f"scorer.pool_kernel={self.pool_kernel}: must be a positive odd number of tokens. Try 5."
            )

    def scores(self, queries: Tensor, keys: Tensor, scaling: float, candidates: int) -> Tensor:
        """[H, n] float32; see `Scorer.scores`."""
        from sparsemm.kernels.backends import score_window  # planning needs no kernels

        return score_window(queries, keys, scaling, candidates, self.pool_kernel)
