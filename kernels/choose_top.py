"""Choose the highest scores of every head, as many as each row wants, without sorting (Triton).

One program finds a row's k-th highest score of a head by halving: 32 times it counts the scores that are at
least some value. Up to 16K scores are read once and stay in registers; more are read again for every count.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

LARGEST = 16_384  # scores that one program holds; 32K spill registers


@triton.jit
def _ordered(scores, places, n):
    """Floats as integers of the same order; the least integer beyond the end."""
    score = tl.load(scores + places, mask=places < n, other=0.0)
    bits = tl.where(score == 0.0, 0.0, score).to(tl.int32, bitcast=True)  # -0.0 is 0.0
    return tl.where(places < n, bits ^ ((bits >> 31) & 0x7FFFFFFF), -2147483648)


@triton.jit
def choose_scores(scores, counts, chosen, n, H: tl.constexpr, BLOCK: tl.constexpr, ONE: tl.constexpr):
    """One row's head: chosen [r, H, n]."""
    pair = tl.program_id(0)
    wanted = tl.load(counts + pair).to(tl.int32)
    mine = scores + (pair % H).to(tl.int64) * n
    out = chosen + pair.to(tl.int64) * n
    places = tl.arange(0, BLOCK)
    held = _ordered(mine, places, n)
    least = tl.full([], -2147483648, tl.int64)  # becomes the k-th highest
    for step in range(0, 32):
        higher = least + (tl.full([], 1, tl.int64) << (31 - step))
        limit = higher.to(tl.int32)
        found = tl.sum((held >= limit).to(tl.int32), 0)
        if not ONE:
            for at in range(BLOCK, n, BLOCK):
                found += tl.sum((_ordered(mine, at + places, n) >= limit).to(tl.int32), 0)
        least = tl.where(found >= wanted, higher, least)
    limit = least.to(tl.int32)
    above = tl.sum((held > limit).to(tl.int32), 0)
    if not ONE:
        for at in range(BLOCK, n, BLOCK):
            above += tl.sum((_ordered(mine, at + places, n) > limit).to(tl.int32), 0)
    left = wanted - above  # of those that are equal to it, the first ones
    for at in range(0, n, BLOCK):
        here = held if ONE else _ordered(mine, at + places, n)
        equal = (here == limit).to(tl.int32)
        first = (equal > 0) & (tl.cumsum(equal, 0) <= left)
        tl.store(out + at + places, (here > limit) | first, mask=at + places < n)
        left -= tl.sum(equal, 0)


def blocks(n: int) -> dict[str, int | bool]:
    """Tile size and warps."""
    block = min(LARGEST, max(128, triton.next_power_of_2(n)))
    warps = 4 if block <= 2048 else 8 if block <= 8192 else 16
    return {"BLOCK": block, "ONE": n <= block, "num_warps": warps}


def choose_top(scores: Tensor, counts: Tensor) -> Tensor:
    """Mark the highest scores of every head; ties go to the lower index.

    Args:
        scores: [H, n] float32, contiguous.
        counts: [r, H] int64, contiguous; how many of each.

    Returns:
        [r, H, n] bool.
    """
    heads, n = scores.shape
    chosen = torch.empty(*counts.shape, n, dtype=torch.bool, device=scores.device)
    if n:
        choose_scores[(counts.numel(),)](scores, counts, chosen, n, H=heads, **blocks(n))
    return chosen
