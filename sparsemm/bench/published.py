"""The cache as the paper's reference code keeps it: one flat tensor, allocated and copied for every token.

Its attention is FlashAttention's for sequences of different length, a KV head being a sequence. Where
flash-attn is not installed, PyTorch's own is taken, and where there is none, one of our backends, so that
then only the copying differs.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparsemm.kernels.backends import TORCH, Backend, KernelBackend
from sparsemm.kernels.ragged_attention import Arena

PUBLISHED = "published"
HALF = (torch.float16, torch.bfloat16)

# queries [N, G, D], keys and values [E, 1, D], ends of segments (of queries and of keys, [N + 1] int32), the
# longest segment, scaling -> [N, G, D]
Varlen = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, float], Tensor]


@dataclass(frozen=True)
class FlatArena(Arena):
    """Segments without any slot to spare, one after the other; `tokens`, `bias` and `order` are not kept.

    Args:
        sizes: entries of every segment, as the host knows them.
        shadow: an arena of plain PyTorch beside it, where that attends.
    """

    sizes: tuple[int, ...] = ()
    shadow: Arena | None = None


class Published(Backend):
    """Appends by copying everything; for one row, as published.

    Args:
        ours: which of our backends attends where there is no FlashAttention.
        device: where.
        dtype: of keys and values.
    """

    name = PUBLISHED

    def __init__(self, ours: Backend, device: torch.device, dtype: torch.dtype):
        found = find_varlen(device, dtype)
        self.ours = ours if isinstance(ours, KernelBackend) else TORCH
        self.varlen = None if found is None else found[1]
        self.attention = self.ours.name if found is None else found[0]

    def lay_out(self, keys: Tensor, values: Tensor, tokens: Tensor, lengths: Tensor, room: int) -> FlatArena:
        """Nothing is moved: entries come one segment after the other."""
        lengths = lengths.to(keys.device)
        flat = lengths.flatten()
        starts, none = flat.cumsum(0) - flat, flat[:0]
        sizes = tuple(flat.tolist())
        arena = FlatArena(
            keys, values, none, none, lengths.clone(), starts, none, none, (), room, sizes=sizes
        )
        if self.varlen is not None:
            return arena
        if isinstance(self.ours, KernelBackend):
            return self.ours.with_work(arena)  # type: ignore[return-value]
        return replace(arena, shadow=TORCH.lay_out(keys, values, tokens, lengths, room))

    def append(self, arena: Arena, keys: Tensor, values: Tensor, seen: int | Tensor, more_room: int) -> Arena:
        """A new flat tensor for keys and one for values: everything so far, and every head's new token."""
        assert isinstance(arena, FlatArena)
        added = torch.arange(len(arena.sizes), device=keys.device)
        shadow = arena.shadow
        return replace(
            arena,
            keys=_copied(arena.keys, keys, arena.sizes),
            values=_copied(arena.values, values, arena.sizes),
            lengths=arena.lengths + 1,
            starts=arena.starts + added,
            sizes=tuple(size + 1 for size in arena.sizes),
            shadow=None if shadow is None else TORCH.append(shadow, keys, values, seen, more_room),
        )

    def attend(self, arena: Arena, queries: Tensor, scaling: float, mask: Tensor | None = None) -> Tensor:
        """Queries [R, Hq, 1, D] -> [R, 1, Hq, D]."""
        assert isinstance(arena, FlatArena)
        assert mask is None
        if arena.shadow is not None:
            return TORCH.attend(arena.shadow, queries, scaling)
        if self.varlen is None:
            return self.ours.attend(arena, queries, scaling)
        rows, query_heads, _, dim = queries.shape
        segments = queries.reshape(len(arena.sizes), -1, dim)
        ends = torch.cat([arena.starts, arena.starts[-1:] + arena.lengths.flatten()[-1:]]).int()
        one, other = arena.keys[:, None], arena.values[:, None]
        ones = torch.arange(len(segments) + 1, dtype=torch.int32, device=queries.device)
        out = self.varlen(segments, one, other, ones, ends, max(arena.sizes), scaling)
        return out.view(rows, 1, query_heads, dim)


def _copied(flat: Tensor, new: Tensor, sizes: tuple[int, ...]) -> Tensor:
    fresh = new.reshape(len(sizes), 1, new.shape[-1]).unbind(0)
    return torch.cat([part for pair in zip(flat.split(sizes), fresh, strict=True) for part in pair])


def find_varlen(device: torch.device, dtype: torch.dtype) -> tuple[str, Varlen] | None:
    """FlashAttention for sequences of different length, and whose it is; None where there is none."""
    if device.type != "cuda" or dtype not in HALF:
        return None
    for name, load in (("flash_attn", _flash_attn), ("flash attention of PyTorch", _of_torch)):
        try:
            run = load()
            _try(run, device, dtype)
        except (ImportError, AttributeError, TypeError, RuntimeError):
            continue
        return name, run
    return None


def _flash_attn() -> Varlen:
    from flash_attn import flash_attn_varlen_func

    def run(
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        ones: Tensor,
        ends: Tensor,
        longest: int,
        scaling: float,
    ) -> Tensor:
        out: Tensor = flash_attn_varlen_func(
            queries, keys, values, ones, ends, 1, longest, softmax_scale=scaling, causal=True
        )
        return out

    return run


def _of_torch() -> Varlen:
    from torch.nn.attention.varlen import varlen_attn

    def run(
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        ones: Tensor,
        ends: Tensor,
        longest: int,
        scaling: float,
    ) -> Tensor:
        out = varlen_attn(
            queries, keys, values, ones, ends, 1, longest, scale=scaling, enable_gqa=queries.shape[1] > 1
        )
        assert isinstance(out, Tensor)
        return out

    return run


def _try(run: Varlen, device: torch.device, dtype: torch.dtype) -> None:
    """Raise where it cannot run here; one query sees both entries of its segment."""
    values = torch.randn(2, 1, 64, device=device, dtype=dtype)
    ones, ends = (torch.tensor([0, size], dtype=torch.int32, device=device) for size in (1, 2))
    found = run(torch.zeros(1, 2, 64, device=device, dtype=dtype), values, values, ones, ends, 2, 0.125)
    if not torch.allclose(found.float(), values.float().mean(0).expand(1, 2, 64), atol=0.01):
        raise RuntimeError("another answer than the mean of two values")
