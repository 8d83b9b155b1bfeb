"""The cache as the paper's reference code keeps it: one flat tensor, allocated and copied for every token.

As there, a token and layer take a launch to copy the keys, one for the values, one (there two) to count, and
FlashAttention's for sequences of different length, a KV head being a sequence. Where flash-attn cannot run,
PyTorch's own is taken, and where there is none, one of our backends, so that then only the copying differs.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

from sparsemm.engine.memory import is_out_of_memory
from sparsemm.kernels.backends import TORCH, Backend, KernelBackend
from sparsemm.kernels.ragged_attention import Arena

PUBLISHED = "published"
HALF = (torch.float16, torch.bfloat16)

# queries [N, G, D], keys and values [E, 1, D], ends of segments (of queries and of keys, [N + 1] int32), the
# longest segment, scaling -> [N, G, D]
Varlen = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, float], Tensor]
# segments [E, D], their new entries [N, D], ends [N + 1], the longest -> [E + N, D]
Copy = Callable[[Tensor, Tensor, Tensor, int], Tensor]


@dataclass(frozen=True, kw_only=True)
class FlatArena(Arena):
    """Segments without any slot to spare, one after the other; `tokens`, `bias` and `order` are not kept.

    `lengths` and `starts` are kept up only where one of our backends attends.

    Args:
        ends: [N + 1] entries of the segments before; int32 for FlashAttention.
        longest: entries of the longest segment.
        shadow: an arena of plain PyTorch beside it, where that attends.
    """

    ends: Tensor
    longest: int
    shadow: Arena | None = None


@dataclass(frozen=True)
class Found:
    """FlashAttention for sequences of different length: whose, what runs it, and who else cannot, and why."""

    name: str
    run: Varlen | None
    left_out: tuple[str, ...] = ()


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
        self.varlen = found.run
        self.attention = self.ours.name if found.run is None else found.name
        self.copied, by = _copy(device, self.ours)
        self.note = "; ".join((f"attention by {self.attention}, copied by {by}", *found.left_out))
        self.numbers: dict[int, Tensor] = {}  # N -> 0, 1, ..., N

    def lay_out(self, keys: Tensor, values: Tensor, tokens: Tensor, lengths: Tensor, room: int) -> FlatArena:
        """Nothing is moved: entries come one segment after the other."""
        sizes = lengths.flatten().tolist()
        lengths = lengths.to(keys.device)
        flat = lengths.flatten()
        kind = torch.long if self.varlen is None else torch.int32
        ends = torch.cat([flat.new_zeros(1), flat.cumsum(0)]).to(kind)
        if len(sizes) not in self.numbers:
            self.numbers[len(sizes)] = torch.arange(len(sizes) + 1, dtype=kind, device=keys.device)
        none, starts = flat[:0], ends[:-1]
        known = {"ends": ends, "longest": max(sizes)}
        arena = FlatArena(keys, values, none, none, lengths.clone(), starts, none, none, (), room, **known)
        if self.varlen is not None:
            return arena
        if isinstance(self.ours, KernelBackend):
            return self.ours.with_work(arena)  # type: ignore[return-value]
        return replace(arena, shadow=TORCH.lay_out(keys, values, tokens, lengths, room))

    def append(self, arena: Arena, keys: Tensor, values: Tensor, seen: int | Tensor, more_room: int) -> Arena:
        """A new flat tensor for keys and one for values: everything so far, and every head's new token."""
        assert isinstance(arena, FlatArena)
        segments, dim, shadow = len(arena.ends) - 1, keys.shape[-1], arena.shadow
        ends = arena.ends + self.numbers[segments]
        updated = replace(
            arena,
            keys=self.copied(arena.keys, keys.reshape(segments, dim), arena.ends, arena.longest),
            values=self.copied(arena.values, values.reshape(segments, dim), arena.ends, arena.longest),
            ends=ends,
            longest=arena.longest + 1,
            shadow=None if shadow is None else TORCH.append(shadow, keys, values, seen, more_room),
        )
        if self.varlen is not None or shadow is not None:
            return updated
        return replace(updated, starts=ends[:-1], lengths=arena.lengths + 1)

    def attend(self, arena: Arena, queries: Tensor, scaling: float, mask: Tensor | None = None) -> Tensor:
        """Queries [R, Hq, 1, D] -> [R, 1, Hq, D]."""
        assert isinstance(arena, FlatArena)
        assert mask is None
        if arena.shadow is not None:
            return TORCH.attend(arena.shadow, queries, scaling)
        if self.varlen is None:
            return self.ours.attend(arena, queries, scaling)
        rows, query_heads, _, dim = queries.shape
        segments = len(arena.ends) - 1
        sequences, ones = queries.reshape(segments, -1, dim), self.numbers[segments]
        one, other = arena.keys[:, None], arena.values[:, None]
        out = self.varlen(sequences, one, other, ones, arena.ends, arena.longest, scaling)
        return out.view(rows, 1, query_heads, dim)


def _copy(device: torch.device, ours: Backend) -> tuple[Copy, str]:
    """Who copies: Triton where it runs."""
    if find_spec("triton") is not None and (device.type == "cuda" or isinstance(ours, KernelBackend)):
        from sparsemm.kernels.copy_behind import copy_behind

        return copy_behind, "Triton"
    return copy_by_torch, "PyTorch"


def copy_by_torch(flat: Tensor, new: Tensor, ends: Tensor, longest: int) -> Tensor:
    """See `copy_behind.copy_behind`."""
    segments = torch.arange(len(new), device=flat.device)
    entries = torch.arange(len(flat), device=flat.device)
    before = torch.repeat_interleave(segments, ends.diff(), output_size=len(flat))
    out = flat.new_empty(len(flat) + len(new), flat.shape[1])
    return out.index_copy_(0, entries + before, flat).index_copy_(0, ends[1:] + segments, new)


@lru_cache(maxsize=8)
def find_varlen(device: torch.device, dtype: torch.dtype) -> Found:
    """FlashAttention for sequences of different length; `run` is None where none can run here."""
    left_out = []
    if device.type == "cuda" and dtype in HALF:
        for name, load in (("flash_attn", _flash_attn), ("flash attention of PyTorch", _of_torch)):
            try:
                run = load()
                _try(run, device, dtype)
            except Exception as error:  # one that is built for another PyTorch or GPU raises what it likes
                if is_out_of_memory(error):
                    raise
                told = " ".join(str(error).split())
                left_out.append(f"{name} cannot run: {type(error).__name__}: {told}")
                continue
            return Found(name, run, tuple(left_out))
    return Found("", None, tuple(left_out))


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
    """What `torch.nn.attention.varlen` calls, which takes groups from PyTorch 2.12 on, and launches more."""
    forward = torch.ops.aten._flash_attention_forward

    def run(
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        ones: Tensor,
        ends: Tensor,
        longest: int,
        scaling: float,
    ) -> Tensor:
        found = forward(queries, keys, values, ones, ends, 1, longest, 0.0, False, False, scale=scaling)
        out: Tensor = found[0]
        return out

    return run


def _try(run: Varlen, device: torch.device, dtype: torch.dtype) -> None:
    """Raise where it cannot run here; one query sees both entries of its segment."""
    values = torch.randn(2, 1, 64, device=device, dtype=dtype)
    ones, ends = (torch.tensor([0, size], dtype=torch.int32, device=device) for size in (1, 2))
    found = run(torch.zeros(1, 2, 64, device=device, dtype=dtype), values, values, ones, ends, 2, 0.125)
    if not torch.allclose(found.float(), values.float().mean(0).expand(1, 2, 64), atol=0.01):
        raise RuntimeError("another answer than the mean of two values")
