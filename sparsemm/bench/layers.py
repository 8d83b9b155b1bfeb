"""Layers of one shape with their caches, and one token's work on all of them."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsemm.engine.captured import Captured, capture
from sparsemm.kernels.backends import Backend


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


class Layers:
    """Layers of one shape, laid out by one backend, and a token's work on all of them.

    Args:
        backend: who computes.
        shape: of a layer.
        count: how many layers.
        device: where.
        dtype: of keys, values and queries.
        tokens: appended before the layers are wound back.
    """

    def __init__(
        self,
        backend: Backend,
        shape: LayerShape,
        count: int,
        device: torch.device,
        dtype: torch.dtype,
        tokens: int,
    ):
        self.backend, self.device = backend, device
        generator = torch.Generator(device).manual_seed(1)

        def random(*sizes: int) -> Tensor:
            return torch.randn(*sizes, generator=generator, device=device, dtype=dtype)

        lengths = shape.lengths().to(device)
        total = int(lengths.sum())
        order = torch.zeros(total, dtype=torch.long, device=device)
        self.first = [
            backend.lay_out(
                random(total, shape.head_dim), random(total, shape.head_dim), order, lengths, tokens
            )
            for _ in range(count)
        ]
        self.arenas = list(self.first)
        written = [one for arena in self.first for one in (arena, getattr(arena, "shadow", None)) if one]
        self.before = [(one, one.lengths.clone(), one.bias.clone()) for one in written]
        self.new = random(2, shape.rows, shape.kv_heads, 1, shape.head_dim)
        self.queries = random(shape.rows, shape.kv_heads * shape.group, 1, shape.head_dim)
        self.seen = torch.zeros(1, dtype=torch.long, device=device)
        self.graph: Captured | None = None

    @torch.inference_mode()
    def token(self) -> Tensor:
        """Append and attend, layer after layer; the last one's output."""
        for index, arena in enumerate(self.arenas):
            arena = self.backend.append(arena, self.new[0], self.new[1], self.seen, 1)
            output = self.backend.attend(arena, self.queries, self.queries.shape[-1] ** -0.5)
            self.arenas[index] = arena
        return output

    @torch.inference_mode()
    def wind_back(self) -> None:
        """As before the first token."""
        self.arenas = list(self.first)
        for arena, lengths, bias in self.before:
            arena.lengths.copy_(lengths)
            arena.bias.copy_(bias)

    def capture(self) -> None:
        """Make a graph of a token, the first behind the prompt."""
        with torch.cuda.device(self.device):
            self.graph = capture(self.token, self.wind_back)
        self.wind_back()

    def us(self, tokens: int, graph: bool) -> float:
        """Microseconds for a token and layer."""
        assert not graph or self.graph is not None
        work = self.graph.replay if graph and self.graph is not None else self.token
        self.wind_back()
        spent = seconds(lambda: [work() for _ in range(tokens)], self.device)
        return 1e6 * spent / tokens / len(self.first)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """By the device's own clock where it has one."""
    if device.type != "cuda":
        began = time.perf_counter()
        work()
        return time.perf_counter() - began
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    start.record()
    work()
    stop.record()
    torch.cuda.synchronize(device)
    return float(start.elapsed_time(stop)) / 1000
