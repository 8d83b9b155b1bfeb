"""Slow and obvious: sort every head's scores, one row after the other."""

import torch
from torch import Tensor


def choose_top(scores: Tensor, counts: Tensor) -> Tensor:
    """See `sparsemm.kernels.choose_top.choose_top`; the same signature."""
    chosen = torch.zeros(*counts.shape, scores.shape[1], dtype=torch.bool)
    for row, wanted in enumerate(counts.tolist()):
        for head, count in enumerate(wanted):
            order = sorted(range(scores.shape[1]), key=lambda place: (-float(scores[head, place]), place))
            chosen[row, head, order[:count]] = True
    return chosen
