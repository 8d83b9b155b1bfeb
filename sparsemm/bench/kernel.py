"""One layer's append and attention for a token, by every backend that runs here, beside the published way.

The published code keeps a layer's cache as one flat tensor that it allocates and copies for every token; its
attention is then done here by the first of our backends, so that only the copying differs.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsemm.kernels.backends import Backend, resolve
from sparsemm.kernels.ragged_attention import Arena

PUBLISHED = "realloc and copy"


@dataclass(frozen=True)
class LayerShape:
    """Rows, KV heads, query heads of each, head_dim, mean entries per head; a few heads hold most of them."""

    rows: int
    kv_heads: int
    group: int
    head_dim: int
    mean: int

    def lengths(self) -> Tensor:
        """[R, H]: a tenth of the mean for every head, the rest by random shares to the power of 8."""
        shares = torch.rand(self.rows, self.kv_heads, generator=torch.Generator().manual_seed(0)) ** 8
        rest = 0.9 * self.mean * self.kv_heads
        return (0.1 * self.mean + rest * shares / shares.sum(1, keepdim=True)).round().long().clamp(min=1)


@dataclass(frozen=True)
class KernelTime:
    """Median microseconds for a token and layer, and the bytes of keys and values that it must read."""

    name: str
    us: float
    read_bytes: int
    gb_per_s: float


def time_layer(
    shape: LayerShape, backends: Sequence[str], device: torch.device, dtype: torch.dtype, tokens: int
) -> list[KernelTime]:
    """Every backend and the published way, `tokens` tokens each, in turn.

    Raises:
        ValueError: a backend that cannot run here.
    """
    lengths = shape.lengths().to(device)
    total = int(lengths.sum())
    generator = torch.Generator().manual_seed(1)
    keys, values = (
        torch.randn(total, shape.head_dim, generator=generator).to(device, dtype) for _ in range(2)
    )
    new = torch.randn(2, shape.rows, shape.kv_heads, 1, shape.head_dim, generator=generator).to(device, dtype)
    queries = torch.randn(shape.rows, shape.kv_heads * shape.group, 1, shape.head_dim, generator=generator)
    queries = queries.to(device, dtype)
    order = torch.zeros(total, dtype=torch.long, device=device)
    found = [resolve(name, device, dtype, shape.head_dim) for name in backends]
    arenas = [one.lay_out(keys, values, order, lengths, tokens + 1) for one in found]
    ends = lengths.flatten().cumsum(0)
    arrived = ends + torch.arange(1, len(ends) + 1, device=device) - 1  # where each head's new entry goes
    kept = torch.ones(total + len(ends), dtype=torch.bool, device=device)
    kept[arrived] = False
    old = kept.nonzero()[:, 0]

    def ours(place: int) -> None:
        arenas[place] = _step(found[place], arenas[place], new, queries)

    copied = [found[0].lay_out(keys, values, order, lengths, tokens + 1)]

    def published() -> None:
        for flat, fresh in ((keys, new[0]), (values, new[1])):
            larger = flat.new_empty(total + len(ends), shape.head_dim)
            larger.index_copy_(0, old, flat)
            larger.index_copy_(0, arrived, fresh.reshape(-1, shape.head_dim))
        copied[0] = _step(found[0], copied[0], new, queries)

    ways: dict[str, Callable[[], None]] = {
        backend.name: (lambda place=place: ours(place))  # type: ignore[misc]
        for place, backend in enumerate(found)
    }
    ways[PUBLISHED] = published
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(tokens):
        for name, way in ways.items():
            times[name].append(_seconds(way, device))
    read = 2 * total * shape.head_dim * dtype.itemsize
    medians = {name: statistics.median(each) for name, each in times.items()}
    return [KernelTime(name, 1e6 * one, read, read / one / 1e9) for name, one in medians.items()]


def copy_gb_per_s(device: torch.device, size: int = 1 << 28) -> float:
    """Measured bandwidth of a copy, what is read and what is written both counted."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = [_seconds(lambda: target.copy_(source), device) for _ in range(5)]
    return 2 * size / statistics.median(times) / 1e9


def _step(backend: Backend, arena: Arena, new: Tensor, queries: Tensor) -> Arena:
    arena = backend.append(arena, new[0], new[1], 0, 1)
    backend.attend(arena, queries, queries.shape[-1] ** -0.5)
    return arena


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of the device's own clock where it has one."""
    if device.type != "cuda":
        began = time.perf_counter()
        work()
        return time.perf_counter() - began
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    work()
    stop.record()
    torch.cuda.synchronize(device)
    return float(start.elapsed_time(stop)) / 1000
