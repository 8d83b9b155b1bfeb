"""Slow and obvious: one entry at a time."""

from torch import Tensor


def gather(
    keys: Tensor,
    values: Tensor,
    keep: Tensor,
    starts: Tensor,
    out_keys: Tensor,
    out_values: Tensor,
    out_tokens: Tensor,
    shift: int = 0,
) -> None:
    """See `sparsemm.kernels.gather.gather`; the same signature."""
    rows, heads, tokens = keep.shape
    for row in range(rows):
        for head in range(heads):
            slot = int(starts[row * heads + head])
            for token in range(tokens):
                if keep[row, head, token]:
                    out_keys[slot], out_values[slot] = keys[head, token], values[head, token]
                    out_tokens[slot] = token + shift
                    slot += 1
