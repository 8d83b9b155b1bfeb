"""Write new tokens behind every segment, in place (Triton): one launch, no copy, no look at a length."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def append_tokens(
    new_keys,
    new_values,
    key_row,
    key_head,
    key_token,
    value_row,
    value_head,
    value_token,
    keys,
    values,
    tokens,
    bias,
    starts,
    lengths,
    seen,
    new,
    H: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One segment; nobody else reads or writes its length."""
    segment = tl.program_id(0)
    row, head = (segment // H).to(tl.int64), (segment % H).to(tl.int64)
    length = tl.load(lengths + segment)
    first = tl.load(starts + segment).to(tl.int64) + length
    token = tl.load(seen)
    dims = tl.arange(0, BLOCK_D)
    inside = dims < D
    for step in range(0, new):
        key = tl.load(
            new_keys + row * key_row + head * key_head + step * key_token + dims, mask=inside, other=0.0
        )
        value = tl.load(
            new_values + row * value_row + head * value_head + step * value_token + dims,
            mask=inside,
            other=0.0,
        )
        slot = first + step
        tl.store(keys + slot * D + dims, key, mask=inside)
        tl.store(values + slot * D + dims, value, mask=inside)
        tl.store(tokens + slot, token + step)
        tl.store(bias + slot, 0.0)
    tl.store(lengths + segment, length + new)


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
    """Write keys and values of new tokens behind their segments; the caller has seen to the room.

    Args:
        keys: [S, D] contiguous, written to.
        values: [S, D] likewise.
        tokens: [S] index of the token in each slot, written to.
        bias: [S] becomes 0 where a slot is in use.
        starts: [N] first slot of each segment, N = R * H.
        lengths: [N] or [R, H] contiguous, slots in use; grow by q.
        new_keys: [R, H, q, D], the last dimension contiguous.
        new_values: [R, H, q, D] likewise.
        seen: [1] index of the first new token, on the device.
    """
    heads, new, dim = new_keys.shape[1:]
    append_tokens[(len(starts),)](
        new_keys,
        new_values,
        *new_keys.stride()[:3],
        *new_values.stride()[:3],
        keys,
        values,
        tokens,
        bias,
        starts,
        lengths,
        seen,
        new,
        H=heads,
        D=dim,
        BLOCK_D=triton.next_power_of_2(dim),
        num_warps=1,
    )


def device_scalar(value: int, device: torch.device) -> Tensor:
    """[1] int64 on the device, written there: nothing is copied from the host."""
    return torch.full((1,), value, dtype=torch.long, device=device)
