"""Budgets and exact totals: how many entries there are, and how they are shared out in whole numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Budget:
    """Entries per KV head: a number, or a share of the prompt."""

    entries: int | None
    share: float | None

    def at(self, prompt_tokens: int) -> int:
        """Entries per KV head for a prompt; a share is rounded half up."""
        if self.entries is not None:
            return self.entries
        assert self.share is not None
        return int(self.share * prompt_tokens + 0.5)


def parse_budget(value: int | str) -> Budget:
    """Read 64 or '10%'.

    Raises:
        ValueError: not a positive whole number and not a percentage in (0, 100].
    """
    text = str(value).strip()
    if re.fullmatch(r"\d+", text) and int(text) > 0:
        return Budget(int(text), None)
    percent = re.fullmatch(r"(\d+(?:\.\d+)?)%", text)
    if percent and 0 < float(percent[1]) <= 100:
        return Budget(None, float(percent[1]) / 100)
    raise ValueError(
        f"budget={value}: must be a positive number of entries per KV head, or a share of the prompt, as 10%."
    )


def share_out(wishes: Tensor, most: int, total: int) -> Tensor:
    """Turn wishes into whole numbers with an exact sum.

    Wishes are scaled to `total`; a head that would pass `most` gets `most`, and the others share what it
    leaves in proportion to their wishes (water-filling); heads that wished for nothing come last and share
    equally. Fractions go to the largest remainders, ties to the lower index.

    Args:
        wishes: [N] >= 0.
        most: the largest value of one head.
        total: the sum that is wanted.

    Returns:
        [N] int64 with sum min(total, N * most).
    """
    wishes = wishes.double()
    total = min(total, most * len(wishes))
    ideal = torch.zeros_like(wishes)
    open_ = torch.ones(len(wishes), dtype=torch.bool, device=wishes.device)
    left = total
    while left > 0:
        weights = torch.where(open_, wishes, 0.0)
        if float(weights.sum()) <= 0:
            weights = open_.double()
        want = weights / weights.sum() * left  # in this order tiny wishes do not overflow
        full = open_ & (want >= most)
        if not bool(full.any()):
            ideal = torch.where(open_, want, ideal)
            break
        ideal[full] = most
        open_ &= ~full
        left = total - most * int((~open_).sum())
    whole = (ideal + 1e-9).floor()
    missing = total - int(whole.sum())
    order = torch.sort(whole - ideal, stable=True).indices[:missing]
    whole[order] += 1
    return whole.long()
