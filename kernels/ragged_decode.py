"""Decode attention over segments of very different lengths (Triton).

One program attends from the query heads of a GQA group to one chunk of their segment and leaves a partial
result; a second kernel combines the partial results of a segment by their log-sum-exp. How a segment is cut
depends on its own slots only (`work_list`), so other rows never change a result. The grid covers all chunks
that may come into use; those beyond a segment's length end at once, and nothing is read back to the host.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

from .products import dot
from .work_list import LONG, LONG_FROM, MIDDLE, MIDDLE_FROM, PER_SIZE, SHORT, WorkList

HEAD_DIMS = (64, 80, 96, 128, 256)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
PARTS = 16  # partial results that the combination reads at once

_SHORT, _MIDDLE, _LONG = tl.constexpr(SHORT), tl.constexpr(MIDDLE), tl.constexpr(LONG)
_MIDDLE_FROM, _LONG_FROM = tl.constexpr(MIDDLE_FROM), tl.constexpr(LONG_FROM)
_PER_SIZE = tl.constexpr(PER_SIZE)


@triton.jit
def _bounds(chunk):
    """First slot of a chunk, from the segment's start, and its slots (`work_list.chunk_bounds`)."""
    begin = chunk * _SHORT
    size = _SHORT
    if chunk >= 2 * _PER_SIZE:
        begin = _LONG_FROM + (chunk - 2 * _PER_SIZE) * _LONG
        size = _LONG
    elif chunk >= _PER_SIZE:
        begin = _MIDDLE_FROM + (chunk - _PER_SIZE) * _MIDDLE
        size = _MIDDLE
    return begin, size


@triton.jit
def _count(length):
    """Chunks in use (`work_list.chunks_of`)."""
    short = tl.minimum(length, _MIDDLE_FROM)
    middle = tl.maximum(tl.minimum(length, _LONG_FROM) - _MIDDLE_FROM, 0)
    long = tl.maximum(length - _LONG_FROM, 0)
    return tl.cdiv(short, _SHORT) + tl.cdiv(middle, _MIDDLE) + tl.cdiv(long, _LONG)


@triton.jit
def attend_chunk(
    queries,
    keys,
    values,
    starts,
    lengths,
    segments,
    chunks,
    firsts,
    partial,
    sums,
    scaling,
    query_row,
    query_head,
    H: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """One chunk of one segment: partial [P, G, D] (normalised) and its log-sum-exp to base 2, sums [P, G]."""
    segment = tl.load(segments + tl.program_id(0))
    chunk = tl.load(chunks + tl.program_id(0))
    length = tl.load(lengths + segment).to(tl.int32)
    start = tl.load(starts + segment).to(tl.int64)
    place = (tl.load(firsts + segment) + chunk).to(tl.int64)
    begin, size = _bounds(chunk)
    end = tl.minimum(begin + size, length)  # a return here would let the other loads wait for the length
    group = tl.arange(0, BLOCK_G)
    dims = tl.arange(0, BLOCK_D)
    row = (segment // H).to(tl.int64)
    first_head = (segment % H) * G
    query_at = row * query_row + (first_head + group)[:, None] * query_head + dims[None, :]
    query = tl.load(queries + query_at, mask=(group < G)[:, None] & (dims < D)[None, :], other=0.0)
    top = tl.full([BLOCK_G], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_G], tl.float32)
    out = tl.zeros([BLOCK_G, BLOCK_D], tl.float32)
    factor = scaling * 1.4426950408889634  # exp2 is what the hardware has
    for at in range(begin, end, BLOCK_T):
        slots = at + tl.arange(0, BLOCK_T)
        used = (slots < end)[:, None] & (dims < D)[None, :]
        slot_at = (start + slots)[:, None] * D + dims[None, :]
        key = tl.load(keys + slot_at, mask=used, other=0.0)
        value = tl.load(values + slot_at, mask=used, other=0.0)
        if BLOCK_G == 1:
            logits = tl.sum(query.to(tl.float32) * key.to(tl.float32), axis=1)[None, :] * factor
        else:
            logits = dot(query, tl.trans(key)) * factor
        logits = tl.where((slots < end)[None, :], logits, float("-inf"))
        higher = tl.maximum(top, tl.max(logits, axis=1))
        shrink = tl.exp2(top - higher)
        weights = tl.exp2(logits - higher[:, None])
        total = total * shrink + tl.sum(weights, axis=1)
        out = out * shrink[:, None]
        if BLOCK_G == 1:
            out += tl.sum(tl.trans(weights) * value.to(tl.float32), axis=0)[None, :]
        else:
            out += dot(weights.to(value.dtype), value)
        top = higher
    out_at = (place * G + group)[:, None] * D + dims[None, :]
    in_use = (group < G) & (begin < length)
    total = tl.where(begin < length, total, 1.0)
    tl.store(partial + out_at, out / total[:, None], mask=in_use[:, None] & (dims < D)[None, :])
    tl.store(sums + place * G + group, top + tl.log2(total), mask=in_use)


@triton.jit
def combine_chunks(
    partial,
    sums,
    lengths,
    firsts,
    output,
    G: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PARTS: tl.constexpr,
):
    """One query head: the partial results of its segment, weighted by their sums -> output [N, G, D]."""
    segment = tl.program_id(0) // G
    member = tl.program_id(0) % G
    count = _count(tl.load(lengths + segment).to(tl.int32))
    first = tl.load(firsts + segment).to(tl.int64)
    dims = tl.arange(0, BLOCK_D)
    top = float("-inf")
    for at in range(0, count, PARTS):
        parts = at + tl.arange(0, PARTS)
        top = tl.maximum(
            top,
            tl.max(tl.load(sums + (first + parts) * G + member, mask=parts < count, other=float("-inf")), 0),
        )
    total = 0.0
    out = tl.zeros([BLOCK_D], tl.float32)
    for at in range(0, count, PARTS):
        parts = at + tl.arange(0, PARTS)
        found = tl.load(sums + (first + parts) * G + member, mask=parts < count, other=float("-inf"))
        weights = tl.exp2(found - top)
        part_at = ((first + parts) * G + member)[:, None] * D + dims[None, :]
        part = tl.load(partial + part_at, mask=(parts < count)[:, None] & (dims < D)[None, :], other=0.0)
        total += tl.sum(weights, 0)
        out += tl.sum(weights[:, None] * part, 0)
    out = tl.where(count > 0, out / tl.maximum(total, 1e-30), 0.0)
    output_at = output + tl.program_id(0).to(tl.int64) * D + dims
    tl.store(output_at, out.to(output.dtype.element_ty), mask=dims < D)


def blocks(group: int, dim: int, dtype: torch.dtype) -> dict[str, int]:
    """Tile sizes: 16 query heads or more for the tensor cores, however few there are.

    Their operands are copied ahead into shared memory. Loads into registers, which one query head in float32
    has, are not: the assembler moves each behind the use of the one before, to save registers.
    """
    block_d = max(16, triton.next_power_of_2(dim))
    block_g = max(16, triton.next_power_of_2(group))
    if group == 1 and dtype == torch.float32:
        block_g = 1  # sixteen times the work without tensor cores
    row_bytes = block_d * dtype.itemsize
    block_t = 64 if row_bytes <= 256 else 32 if row_bytes <= 512 else 16
    if block_g > 1 and dtype == torch.float32:
        block_t = 16  # without tensor cores, 32 spill registers on sm_90
    return {"BLOCK_G": block_g, "BLOCK_D": block_d, "BLOCK_T": block_t}


def ragged_decode(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    starts: Tensor,
    lengths: Tensor,
    scaling: float,
    work: WorkList,
) -> Tensor:
    """Attention of one new token per row over the segments of its heads.

    Args:
        queries: [R, Hq, D], the last dimension contiguous.
        keys: [S, D] contiguous, fp16, bf16 or fp32, as the queries.
        values: [S, D] likewise.
        starts: [N] first slot of each segment, N = R * H, numbered row * H + head.
        lengths: [N] or [R, H] slots in use; 0 gives zeros.
        scaling: factor on the dot products.
        work: the chunks of the segments; must cover their lengths.

    Returns:
        [R, Hq, D].
    """
    rows, query_heads, dim = queries.shape
    heads = len(starts) // rows
    group = query_heads // heads
    count = len(work.segments)
    partial = torch.empty(max(count, 1), group, dim, dtype=torch.float32, device=queries.device)
    sums = torch.empty(max(count, 1), group, dtype=torch.float32, device=queries.device)
    output = torch.empty(rows, query_heads, dim, dtype=queries.dtype, device=queries.device)
    tile = blocks(group, dim, keys.dtype)
    if count:
        attend_chunk[(count,)](
            queries, keys, values, starts, lengths, work.segments, work.chunks, work.firsts, partial, sums,
            scaling, queries.stride(0), queries.stride(1), H=heads, G=group, D=dim, **tile, num_warps=4,
        )  # fmt: skip
    combine_chunks[(rows * query_heads,)](
        partial, sums, lengths, work.firsts, output, G=group, D=dim, BLOCK_D=tile["BLOCK_D"], PARTS=PARTS,
        num_warps=2,
    )  # fmt: skip
    return output
