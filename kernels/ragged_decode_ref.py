"""Slow and obvious: one query head at a time over its segment, in the precision asked for."""

import torch
from torch import Tensor

from .work_list import WorkList


def ragged_decode(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    starts: Tensor,
    lengths: Tensor,
    scaling: float,
    work: WorkList | None = None,
    precision: torch.dtype = torch.float64,
) -> Tensor:
    """See `sparsemm.kernels.ragged_decode.ragged_decode`; `work` is not used.

    Returns:
        [R, Hq, D] in `precision`.
    """
    rows, query_heads, dim = queries.shape
    heads = len(starts) // rows
    group = query_heads // heads
    out = torch.zeros(rows, query_heads, dim, dtype=precision)
    for row in range(rows):
        for query_head in range(query_heads):
            segment = row * heads + query_head // group
            start, length = int(starts[segment]), int(lengths.flatten()[segment])
            if length:
                here = slice(start, start + length)
                logits = scaling * (keys[here].to(precision) @ queries[row, query_head].to(precision))
                out[row, query_head] = torch.softmax(logits, 0) @ values[here].to(precision)
    return out
