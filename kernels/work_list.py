"""How a segment is cut into chunks, and the list of all chunks of a layer: the work of one decode step.

A chunk is a fixed stretch of slots of its segment: 8 of 128, 8 of 256, then of 512. Its bounds depend on
nothing but its number, so a segment is cut the same way whatever stands beside it, and appending changes the
last chunk only. The list covers every slot a segment may come to use; it stays valid until the arena is laid
out anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SHORT, MIDDLE, LONG = 128, 256, 512  # slots of a chunk; not measured
PER_SIZE = 8  # chunks of each of the first two sizes
MIDDLE_FROM = PER_SIZE * SHORT  # slots before the first chunk of 256
LONG_FROM = MIDDLE_FROM + PER_SIZE * MIDDLE


@dataclass(frozen=True)
class WorkList:
    """All chunks of the segments of a layer, the long ones first.

    Args:
        segments: [P] int32, whose chunk it is.
        chunks: [P] int32, its number in the segment.
        firsts: [N + 1] int32, chunks of the segments before; the place of a chunk's partial result is
            firsts[segment] + chunk.
    """

    segments: Tensor
    chunks: Tensor
    firsts: Tensor


def chunks_of(size: int) -> int:
    """How many chunks `size` slots take."""
    if size <= MIDDLE_FROM:
        return -(-size // SHORT)
    if size <= LONG_FROM:
        return PER_SIZE - (MIDDLE_FROM - size) // MIDDLE
    return 2 * PER_SIZE - (LONG_FROM - size) // LONG


def make_work_list(sizes: Sequence[int], device: torch.device) -> WorkList:
    """The chunks of segments, made on the host: on a GPU each of thirty operations would be a launch.

    Args:
        sizes: [N] slots that each segment may come to use.
        device: that the list is sent to.
    """
    counts = torch.tensor([chunks_of(size) for size in sizes], dtype=torch.long)
    ends = counts.cumsum(0)
    segments = torch.repeat_interleave(counts)
    chunks = torch.arange(len(segments)) - (ends - counts)[segments]
    begin, size = chunk_bounds(chunks)
    filled = torch.minimum(torch.tensor(sizes, dtype=torch.long)[segments] - begin, size)
    order = torch.argsort(filled, descending=True, stable=True)
    firsts = torch.cat([ends.new_zeros(1), ends])
    parts = (one.int().to(device, non_blocking=True) for one in (segments[order], chunks[order], firsts))
    return WorkList(*parts)


def chunk_bounds(chunks: Tensor) -> tuple[Tensor, Tensor]:
    """First slot (from the segment's start) and slots of chunks by their number."""
    short, middle = chunks < PER_SIZE, chunks < 2 * PER_SIZE
    begin = torch.where(
        short,
        chunks * SHORT,
        torch.where(
            middle,
            MIDDLE_FROM + (chunks - PER_SIZE) * MIDDLE,
            LONG_FROM + (chunks - 2 * PER_SIZE) * LONG,
        ),
    )
    size = torch.where(short, SHORT, torch.where(middle, MIDDLE, LONG))
    return begin, size
