"""Rank tokens by age: the newest are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sparsemm.methods.base import Scorer

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Recent(Scorer):
    """Keep the last tokens; with the uniform allocator the `window` ablation of the paper's Table 2.

    With 4 sinks it keeps what StreamingLLMPress of kvpress 0.5.5 keeps.
    """

    def scores(self, queries: Tensor, keys: Tensor, scaling: float, candidates: int) -> Tensor:
        """[H, n] float32; see `Scorer.scores`."""
        ages = torch.arange(candidates, dtype=torch.float32, device=keys.device)
        return ages.expand(keys.shape[0], candidates)
