"""Append to segments without room by copying all of them (Triton), as the paper's reference code does.

No backend of ours does that; the benchmark compares with it.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096  # elements that one program copies; not measured


@triton.jit
def copy_segments(flat, fresh, ends, out, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr):
    """One stretch of one segment; the first stretch takes the new entry too."""
    segment = tl.program_id(0)
    start = tl.load(ends + segment).to(tl.int64)
    stop = tl.load(ends + segment + 1).to(tl.int64)
    count = (stop - start) * D
    source = flat + start * D
    target = out + (start + segment) * D  # a new entry lies behind each segment before
    places = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = places < count
    tl.store(target + places, tl.load(source + places, mask=inside), mask=inside)
    if tl.program_id(1) == 0:
        dims = tl.arange(0, BLOCK_D)
        entry = tl.load(fresh + segment.to(tl.int64) * D + dims, mask=dims < D)
        tl.store(target + count + dims, entry, mask=dims < D)


def copy_behind(flat: Tensor, new: Tensor, ends: Tensor, longest: int) -> Tensor:
    """A new tensor of all segments, each with its new entry behind it; one launch.

    Args:
        flat: [E, D] contiguous, one segment after the other.
        new: [N, D] contiguous.
        ends: [N + 1] int32 or int64, entries of the segments before; starts with 0.
        longest: entries of the longest segment, or more.

    Returns:
        [E + N, D].
    """
    segments, dim = new.shape
    out = flat.new_empty(len(flat) + segments, dim)
    grid = segments, max(1, triton.cdiv(longest * dim, BLOCK))
    copy_segments[grid](
        flat, new, ends, out, D=dim, BLOCK_D=triton.next_power_of_2(dim), BLOCK=BLOCK, num_warps=4
    )
    return out
