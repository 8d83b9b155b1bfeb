"""More entries for lower layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sparsemm.methods.base import Allocator, ModelShape

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Pyramid(Allocator):
    """Entries fall linearly from the first layer to the last; all heads of a layer get the same.

    PyramidKVPress of kvpress 0.5.5 ranks tokens alike, but shares out the whole budget with the window in
    it (ours what the window leaves), in fractions that are rounded per layer, and falls back to SnapKV
    where budget / beta is less than the window.

    Source: PyramidKV, arXiv:2406.02069; whole-number steps as in the code of arXiv:2506.05344.
    """

    beta: int  # steepness: the last layer gets capacity // beta

    def __post_init__(self) -> None:
        if self.beta < 1:
            raise ValueError(
                f"allocator.beta={self.beta}: must be at least 1 (1 is uniform). The paper uses 20."
            )

    def wishes(self, shape: ModelShape, candidates: int, capacity: int) -> Tensor:
        """[L, H] float64; see `Allocator.wishes`."""
        least = capacity // self.beta
        most = 2 * capacity - least
        if most >= candidates:
            most, least = candidates, 2 * capacity - candidates
        step = (most - least) // max(1, shape.layers - 1)
        layers = torch.tensor([most - layer * step for layer in range(shape.layers)], dtype=torch.float64)
        return layers[:, None].expand(shape.layers, shape.kv_heads)
