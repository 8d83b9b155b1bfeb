"""Decoding with flash-attn, for comparison: one call of its cache attention for each size class."""

import torch
from torch import Tensor

from .backends import Backend, refuse
from .ragged_attention import Arena


class FlashBackend(Backend):
    """Appends as PyTorch does; a size class is a batch of caches of one head to flash-attn."""

    name = "flash_attn"

    def attend(self, arena: Arena, queries: Tensor, scaling: float, mask: Tensor | None = None) -> Tensor:
        """flash-attn where there is one new token per row and no mask."""
        if queries.shape[2] != 1 or mask is not None:
            return super().attend(arena, queries, scaling, mask)
        from flash_attn import flash_attn_with_kvcache

        rows, heads = arena.lengths.shape
        dim = queries.shape[3]
        group = queries.shape[1] // heads
        segments = queries.reshape(rows * heads, group, dim).index_select(0, arena.order)
        lengths = arena.lengths.flatten().index_select(0, arena.order).int()
        outputs = []
        for size in arena.classes:
            here = slice(size.offset, size.offset + size.count * size.capacity)
            part = slice(size.first, size.first + size.count)
            shape = (size.count, size.capacity, 1, dim)
            outputs.append(
                flash_attn_with_kvcache(
                    segments[part, None],
                    arena.keys[here].view(shape),
                    arena.values[here].view(shape),
                    cache_seqlens=lengths[part],
                    softmax_scale=scaling,
                )
            )
        out: Tensor = torch.cat(outputs)[:, 0].index_select(0, arena.place)
        return out.view(rows, 1, heads * group, dim)


def make(device: torch.device, dtype: torch.dtype, head_dim: int) -> Backend:
    """The backend.

    Raises:
        ValueError: no flash-attn, no GPU, another dtype, a head_dim that it does not take.
    """
    if device.type != "cuda":
        raise refuse("flash_attn", f"needs an NVIDIA GPU, but the model is on {device}.")
    if dtype not in (torch.float16, torch.bfloat16):
        raise refuse("flash_attn", f"computes in float16 and bfloat16, but the keys are {dtype}.")
    if head_dim > 256 or head_dim % 8:
        raise refuse(
            "flash_attn", f"takes a head_dim of up to 256 that 8 divides, but the model's is {head_dim}."
        )
    try:
        import flash_attn  # noqa: F401
    except ImportError as error:
        raise refuse(
            "flash_attn",
            f"cannot be imported ({error}). Install it (pip install flash-attn --no-build-isolation).",
        ) from None
    return FlashBackend()
