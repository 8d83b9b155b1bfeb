"""Copy what every row keeps of a prompt into its segments (Triton): one launch for all rows of a layer."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import triton
import triton.language as tl
from torch import Tensor

BLOCK_T = 32  # tokens copied at a time
SPAN = 512  # tokens that one program looks through; not measured


@triton.jit
def gather_kept(
    keys,
    values,
    keep,
    starts,
    out_keys,
    out_values,
    out_tokens,
    key_head,
    key_token,
    value_head,
    value_token,
    T,
    shift,
    H: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_T: tl.constexpr,
    SPAN: tl.constexpr,
):
    """One stretch of tokens of one row's head: counts what is kept before it, then copies its own."""
    segment = tl.program_id(0)
    head = (segment % H).to(tl.int64)
    begin = tl.program_id(1) * SPAN
    flags = keep + segment.to(tl.int64) * T
    before = 0
    for at in range(0, begin, SPAN):
        before += tl.sum(tl.load(flags + at + tl.arange(0, SPAN)).to(tl.int32), 0)
    slot = tl.load(starts + segment).to(tl.int64) + before
    dims = tl.arange(0, BLOCK_D)
    for at in range(begin, tl.minimum(begin + SPAN, T), BLOCK_T):
        tokens = at + tl.arange(0, BLOCK_T)
        kept = tl.load(flags + tokens, mask=tokens < T, other=0).to(tl.int32)
        found = tl.sum(kept, 0)
        if found > 0:
            slots = slot + tl.cumsum(kept, 0) - kept
            here = (kept > 0)[:, None] & (dims < D)[None, :]
            wide = tokens.to(tl.int64)[:, None]
            key = tl.load(keys + head * key_head + wide * key_token + dims[None, :], mask=here, other=0.0)
            value = tl.load(
                values + head * value_head + wide * value_token + dims[None, :], mask=here, other=0.0
            )
            tl.store(out_keys + slots[:, None] * D + dims[None, :], key, mask=here)
            tl.store(out_values + slots[:, None] * D + dims[None, :], value, mask=here)
            tl.store(out_tokens + slots, (tokens + shift).to(tl.int64), mask=kept > 0)
            slot += found


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
    """Copy the entries that `keep` marks, in token order, to the slots from `starts` on.

    Args:
        keys: [H, T, D], the last dimension contiguous.
        values: [H, T, D] likewise.
        keep: [R, H, T] bool, contiguous.
        starts: [R * H] first slot of each segment.
        out_keys: [S, D] contiguous, written to; slots behind a segment's entries stay as they are.
        out_values: [S, D] likewise.
        out_tokens: [S] int64, the index of each entry in the prompt.
        shift: added to those indices.
    """
    heads, tokens, dim = keys.shape
    gather_kept[(len(starts), triton.cdiv(tokens, SPAN))](
        keys,
        values,
        keep,
        starts,
        out_keys,
        out_values,
        out_tokens,
        *keys.stride()[:2],
        *values.stride()[:2],
        tokens,
        shift,
        H=heads,
        D=dim,
        BLOCK_D=triton.next_power_of_2(dim),
        BLOCK_T=BLOCK_T,
        SPAN=SPAN,
        num_warps=4,
    )
