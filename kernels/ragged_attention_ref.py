"""Slow and obvious: ragged segments as Python lists, attention one query at a time, in float32."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segments:
    """What `sparsemm.kernels.ragged_attention.Arena` holds, without any layout.

    Args:
        keys: for every segment (row * H + head) its keys [length, D].
        values: likewise.
        tokens: for every segment the index of the token of each entry.
        heads: H.
    """

    keys: list[Tensor]
    values: list[Tensor]
    tokens: list[list[int]]
    heads: int


def build_arena(keys: Tensor, values: Tensor, tokens: Tensor, lengths: Tensor, room: int) -> Segments:
    """Cut entries (keys, values [E, D], tokens [E], segment by segment) of lengths [R, H]; no `room`."""
    sizes = lengths.flatten().tolist()
    return Segments(
        list(keys.split(sizes)),
        list(values.split(sizes)),
        [part.tolist() for part in tokens.split(sizes)],
        lengths.shape[1],
    )


def append(arena: Segments, keys: Tensor, values: Tensor, seen: int, more_room: int) -> Segments:
    """Put new tokens [R, H, q, D] behind every segment; `seen` is the index of the first."""
    new = list(range(seen, seen + keys.shape[2]))
    return Segments(
        [torch.cat(pair) for pair in zip(arena.keys, keys.flatten(0, 1), strict=True)],
        [torch.cat(pair) for pair in zip(arena.values, values.flatten(0, 1), strict=True)],
        [tokens + new for tokens in arena.tokens],
        arena.heads,
    )


def attend(arena: Segments, queries: Tensor, scaling: float, mask: Tensor | None = None) -> Tensor:
    """Attention of the last q tokens, causal; shapes as in `sparsemm.kernels.ragged_attention.attend`.

    A query that may see nothing gets zeros.
    """
    rows, query_heads, new, dim = queries.shape
    group = query_heads // arena.heads
    out = torch.zeros(rows, new, query_heads, dim)
    for row in range(rows):
        for query_head in range(query_heads):
            segment = row * arena.heads + query_head // group
            keys, values = arena.keys[segment].float(), arena.values[segment].float()
            for step in range(new):
                seen = torch.arange(len(keys)) < len(keys) - new + step + 1
                if mask is not None:
                    row_mask = mask[row, 0, step]
                    allowed = row_mask if row_mask.dtype == torch.bool else row_mask == 0
                    seen = allowed[torch.tensor(arena.tokens[segment], dtype=torch.long)]
                if bool(seen.any()):
                    logits = scaling * (keys[seen] @ queries[row, query_head, step].float())
                    out[row, step, query_head] = torch.softmax(logits, 0) @ values[seen]
    return out
