"""No ranking: for methods that keep everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparsemm.methods.base import Scorer

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class NoScorer(Scorer):
    """Stands where nothing is ranked."""

    def scores(self, queries: Tensor, keys: Tensor, scaling: float, candidates: int) -> Tensor:
        """Refuse: there is nothing to rank by."""
        raise ValueError(
            "scorer=none: this method ranks tokens. Choose a scorer, such as scorer=window_attention."
        )
