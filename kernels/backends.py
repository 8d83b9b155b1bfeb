"""Who computes the cache's operations: plain PyTorch, Triton, CUDA C++ or flash-attn, by name.

All of them work on the same arenas, so a cache may be laid out by one and read by another. A kernel attends
from one new token per row without a mask, which is what decoding is; anything else (several tokens of a
follow-up question, a mask of the caller's) is computed by plain PyTorch whatever the backend.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import replace
from functools import lru_cache
from importlib import import_module

import torch
from torch import Tensor

from . import ragged_attention, window_scores
from .ragged_attention import Arena
from .work_list import make_work_list

BACKENDS = ("auto", "torch", "triton", "cuda", "flash_attn")
KEY = "engine.cache_backend"
INSTEAD = f"Set {KEY}=torch, which runs everywhere, or {KEY}=auto."


class Backend:
    """Plain PyTorch; the others replace what they do themselves."""

    name = "torch"

    def lay_out(self, keys: Tensor, values: Tensor, tokens: Tensor, lengths: Tensor, room: int) -> Arena:
        """See `ragged_attention.build_arena`."""
        return ragged_attention.build_arena(keys, values, tokens, lengths, room)

    def append(self, arena: Arena, keys: Tensor, values: Tensor, seen: int | Tensor, more_room: int) -> Arena:
        """See `ragged_attention.append`; `seen` may be a tensor [1] on the device."""
        return ragged_attention.append(arena, keys, values, seen, more_room)

    def attend(self, arena: Arena, queries: Tensor, scaling: float, mask: Tensor | None = None) -> Tensor:
        """See `ragged_attention.attend`."""
        return ragged_attention.attend(arena, queries, scaling, mask)

    def gather(
        self, keys: Tensor, values: Tensor, keep: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Copy what `keep` [R, H, T] marks out of keys and values [H, T, D].

        Args:
            keys: [H, T, D].
            values: [H, T, D].
            keep: [R, H, T] bool.
            lengths: [R, H] how many it marks, on the host, where known: kernels then wait for nothing.

        Returns:
            keys and values [E, D], tokens [E], lengths [R, H]; row by row, head by head, in token order.
        """
        heads, tokens, dim = keys.shape
        chosen = keep.view(len(keep), heads * tokens).nonzero()[:, 1]
        flat_keys, flat_values = keys.reshape(heads * tokens, dim), values.reshape(heads * tokens, dim)
        return flat_keys[chosen], flat_values[chosen], chosen % tokens, _lengths(keep, lengths)

    def choose(self, scores: Tensor, counts: Tensor, order: Tensor | None = None) -> Tensor:
        """Mark the `counts` [r, H] highest of scores [H, n] -> [r, H, n]; ties go to the lower index.

        `order` [H, n] says which index has which rank, where that is known.
        """
        if order is None:
            order = torch.sort(scores, dim=1, descending=True, stable=True).indices
        places = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
        ranks = torch.empty_like(order).scatter_(1, order, places)
        return ranks < counts[:, :, None]

    def window_scores(
        self, queries: Tensor, keys: Tensor, scaling: float, candidates: int, pool_kernel: int
    ) -> Tensor:
        """See `window_scores.window_scores`."""
        return window_scores.window_scores(queries, keys, scaling, candidates, pool_kernel)


class KernelBackend(Backend):
    """Kernels that append to and read an arena in place, with a work list made when it is laid out.

    Args:
        name: of the backend.
        append: as `append_ref.append`.
        decode: as `ragged_decode.ragged_decode`.
        gather: as `gather_ref.gather`.
        scores: as `window_scores.window_scores`.
        choose: as `choose_top_ref.choose_top`.
    """

    def __init__(
        self,
        name: str,
        append: Callable[..., None],
        decode: Callable[..., Tensor],
        gather: Callable[..., None],
        scores: Callable[..., Tensor],
        choose: Callable[..., Tensor],
    ):
        self.name, self._append, self._decode, self._gather, self._scores, self._choose = (
            name, append, decode, gather, scores, choose
        )  # fmt: skip

    def lay_out(self, keys: Tensor, values: Tensor, tokens: Tensor, lengths: Tensor, room: int) -> Arena:
        """With the chunks that the segments may come to use."""
        return self.with_work(super().lay_out(keys, values, tokens, lengths, room), lengths)

    def append(self, arena: Arena, keys: Tensor, values: Tensor, seen: int | Tensor, more_room: int) -> Arena:
        """One launch; an arena that is full is laid out anew before anything is written."""
        new = keys.shape[2]
        if new > arena.room:
            arena = self.with_work(ragged_attention.grow(arena, max(new, more_room)))
        if isinstance(seen, int):  # written there: nothing is copied from the host
            seen = torch.full((1,), seen, dtype=torch.long, device=keys.device)
        with _device_of(keys):
            self._append(
                arena.keys, arena.values, arena.tokens, arena.bias, arena.starts, arena.lengths,
                _rows_apart(keys), _rows_apart(values), seen,
            )  # fmt: skip
        return replace(arena, room=arena.room - new)

    def attend(self, arena: Arena, queries: Tensor, scaling: float, mask: Tensor | None = None) -> Tensor:
        """The kernel where there is one new token per row and no mask."""
        if queries.shape[2] != 1 or mask is not None or arena.work is None:
            return super().attend(arena, queries, scaling, mask)
        query = _rows_apart(queries[:, :, 0])
        segments = arena.keys, arena.values, arena.starts, arena.lengths
        with _device_of(queries):
            return self._decode(query, *segments, scaling, arena.work)[:, None]

    def choose(self, scores: Tensor, counts: Tensor, order: Tensor | None = None) -> Tensor:
        """One launch for all rows and heads, where the order is not known already."""
        if order is not None:
            return super().choose(scores, counts, order)
        with _device_of(scores):
            return self._choose(scores.contiguous(), counts.contiguous())

    def gather(
        self, keys: Tensor, values: Tensor, keep: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One launch for all rows and heads."""
        lengths = _lengths(keep, lengths)
        total = int(lengths.sum())
        lengths_here = lengths.to(keys.device, non_blocking=True)
        ends = lengths_here.flatten().cumsum(0)
        out_keys, out_values = (keys.new_empty(total, keys.shape[2]) for _ in range(2))
        tokens = torch.empty(total, dtype=torch.long, device=keys.device)
        starts = ends - lengths_here.flatten()
        kept = keep.contiguous()
        with _device_of(keys):
            self._gather(_rows_apart(keys), _rows_apart(values), kept, starts, out_keys, out_values, tokens)
        return out_keys, out_values, tokens, lengths

    def window_scores(
        self, queries: Tensor, keys: Tensor, scaling: float, candidates: int, pool_kernel: int
    ) -> Tensor:
        """Two passes over the keys."""
        with _device_of(keys):
            return self._scores(_rows_apart(queries), _rows_apart(keys), scaling, candidates, pool_kernel)

    def with_work(self, arena: Arena, lengths: Tensor | None = None) -> Arena:
        """The arena with the chunks that its segments may come to use; `lengths` [R, H] may be the host's."""
        known = arena.lengths if lengths is None else lengths
        sizes = [length + arena.room for length in known.flatten().tolist()]
        return replace(arena, work=make_work_list(sizes, arena.keys.device))


def _device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Kernels are launched on the current GPU: layers may be spread over several."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def _lengths(keep: Tensor, known: Tensor | None) -> Tensor:
    """[R, H] what `keep` [R, H, T] marks, on the host."""
    return keep.sum(2).cpu() if known is None else known


def _rows_apart(tensor: Tensor) -> Tensor:
    """The tensor with its last dimension contiguous."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


TORCH = Backend()
_current: ContextVar[Backend] = ContextVar("backend", default=TORCH)


@contextmanager
def using(backend: Backend) -> Iterator[None]:
    """Let prompts be ranked and cut by `backend`: `score_window` and `current` follow it."""
    token = _current.set(backend)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Backend:
    """The backend of the cache that is being filled."""
    return _current.get()


def score_window(queries: Tensor, keys: Tensor, scaling: float, candidates: int, pool_kernel: int) -> Tensor:
    """`window_scores.window_scores`, by the backend of the cache that is being filled."""
    return current().window_scores(queries, keys, scaling, candidates, pool_kernel)


def resolve(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> Backend:
    """The backend of that name; `auto` is PyTorch until the kernels have been measured on a GPU.

    Raises:
        ValueError: an unknown name, or a backend that cannot run here or with these tensors.
    """
    check_name(name)
    if name in ("torch", "auto"):
        return TORCH
    return _found(name, device, dtype, head_dim)


def check_name(name: str) -> None:
    """Raise ValueError for a name that no backend has."""
    if name not in BACKENDS:
        raise ValueError(f"{KEY}={name}: must be one of {', '.join(BACKENDS)}.")


def capability(device: torch.device) -> tuple[int, int] | None:
    """Of an NVIDIA GPU; None elsewhere."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None


@lru_cache(maxsize=64)
def _found(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> Backend:
    """Made once for each device, dtype and head_dim."""
    module = import_module(f".{name if name != 'flash_attn' else 'flash'}_backend", __package__)
    found: Backend = module.make(device, dtype, head_dim)
    return found


def refuse(name: str, what: str) -> ValueError:
    """The error of a backend that cannot be used."""
    return ValueError(f"{KEY}={name}: {what} {INSTEAD}")
