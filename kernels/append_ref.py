"""Slow and obvious: one entry at a time."""

from torch import Tensor


def append(
    keys: Tensor,
    values: Tensor,
    tokens: Tensor,
    bias: Tensor,
    starts: Tensor,
    lengths: Tensor,
    new_keys: Tensor,
    new_values: Tensor,
    seen: Tensor,
) -> None:
    """See `sparsemm.kernels.append.append`; the same signature."""
    rows, heads, new, _ = new_keys.shape
    counts = lengths.view(-1)
    for row in range(rows):
        for head in range(heads):
            segment = row * heads + head
            for step in range(new):
                slot = int(starts[segment]) + int(counts[segment])
                keys[slot], values[slot] = new_keys[row, head, step], new_values[row, head, step]
                tokens[slot], bias[slot] = int(seen) + step, 0.0
                counts[segment] += 1
