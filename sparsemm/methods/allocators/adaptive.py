"""Share a layer's entries among its heads by how spread out their attention is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sparsemm.methods.base import Allocator

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Adaptive(Allocator):
    """Heads compete for the layer's entries with their scores; a floor goes to every head.

    Each head's scores are scaled by the share that its best `capacity` tokens hold; the H * capacity largest
    of the layer are counted per head.

    AdaKVPress of kvpress 0.5.5 has the same total per layer but does not scale scores, and in place of the
    floor it protects the best `alpha_safeguard * budget` entries of each head, window included, which
    changes nothing for heads that win more. The two agree where each head's best tokens hold all its
    attention and floor is 0.

    Source: AdaKV, arXiv:2407.11550; scaling and floor as in the code of arXiv:2506.05344.
    """

    floor: float  # share of the capacity that every head gets
    per_layer = True

    def __post_init__(self) -> None:
        if not 0 <= self.floor <= 1:
            raise ValueError(f"allocator.floor={self.floor}: must be between 0 and 1. The paper uses 0.2.")

    def layer_wishes(self, ranked: Tensor, capacity: int) -> Tensor:
        """[H] float64; see `Allocator.layer_wishes`."""
        heads, candidates = ranked.shape
        total = ranked.sum(1).clamp_min(torch.finfo(ranked.dtype).tiny)  # 0 where the window takes it all
        scale = ranked[:, :capacity].sum(1) / total
        best = torch.sort((ranked * scale[:, None]).flatten(), descending=True, stable=True).indices[
            : heads * capacity
        ]
        counts = torch.bincount(best // candidates, minlength=heads)
        return counts.double() * (1 - self.floor) + int(self.floor * capacity)
