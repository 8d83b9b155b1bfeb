"""The same number of entries for every head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sparsemm.methods.base import Allocator, ModelShape

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Uniform(Allocator):
    """Every head of every layer gets the capacity.

    Source: SnapKV, arXiv:2404.14469.
    """

    def wishes(self, shape: ModelShape, candidates: int, capacity: int) -> Tensor:
        """[L, H] float64; see `Allocator.wishes`."""
        return torch.full((shape.layers, shape.kv_heads), capacity, dtype=torch.float64)
