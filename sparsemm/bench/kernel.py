"""One layer's append and attention for a token, by every backend that runs here, beside the published way.

There are as many layers as fill 256 MB (up to the model's own number), and a round goes through all of them
for every token, so that nothing is found in a cache of the chip that a whole model would not find there. On a
GPU all layers of a token are one CUDA graph, for the published way too: real decoding could not capture that
one, as its tensors grow, but what is compared is the work, not who launches it. `eager_us` is without one.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparsemm.bench.published import PUBLISHED, Published
from sparsemm.bench.results import Result, attempt, free, in_turn, result
from sparsemm.bench.settings import Settings
from sparsemm.bench.shapes import SHAPES
from sparsemm.kernels.backends import BACKENDS, TORCH, Backend, resolve

FILLED_BYTES = 256 * 10**6  # several times what the caches of an H200 hold (50 MB)


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
        self.graph: torch.cuda.CUDAGraph | None = None

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
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self.token()
            torch.cuda.current_stream().wait_stream(side)
            self.wind_back()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.token()
        self.graph = graph
        self.wind_back()

    def us(self, tokens: int, graph: bool) -> float:
        """Microseconds for a token and layer."""
        assert not graph or self.graph is not None
        work = self.graph.replay if graph and self.graph is not None else self.token
        self.wind_back()
        seconds = _seconds(lambda: [work() for _ in range(tokens)], self.device)
        return 1e6 * seconds / tokens / len(self.first)


def measure(settings: Settings, shape: str, copy_gb_per_s: float | None) -> Iterator[Result]:
    """One result for every backend and the published way, at every budget and number of rows.

    Prints which backend was the fastest, setting by setting.
    """
    known, place, numbers = SHAPES[shape].attention, settings.place, settings.numbers
    backends = runnable(settings.backend, place, numbers, known.head_dim)
    for rows in settings.rows:
        for budget in settings.budgets:
            layer = LayerShape(rows, known.kv_heads, known.group, known.head_dim, budget)
            told: dict[str, Any] = {"shape": shape, "budget": budget, "rows": rows}
            timed, error = attempt(
                partial(
                    time_layer,
                    layer,
                    known.layers,
                    backends,
                    place,
                    numbers,
                    settings.tokens,
                    settings.rounds,
                )
            )
            if timed is None:
                yield from (result("kernel", **told, way=one.name, error=error) for one in backends)
                continue
            yield from with_shares(timed, told, copy_gb_per_s)
            ours = {name: found["us"] for name, found in timed.items() if name != PUBLISHED}
            best = min(ours, key=ours.__getitem__)
            print(f"  fastest of {', '.join(ours)} at budget={budget}, rows={rows}: {best}")
            free()


def runnable(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> list[Backend]:
    """The backend of a name; for auto, all that can run here. On a CPU that is PyTorch's.

    Raises:
        ValueError: a backend that cannot run here.
    """
    if name != "auto":
        return [resolve(name, device, dtype, head_dim)]
    found = []
    for one in BACKENDS[1:] if device.type == "cuda" else (TORCH.name,):
        try:
            found.append(resolve(one, device, dtype, head_dim))
        except ValueError as error:
            print(f"  left out: {error}")
    return found


def time_layer(
    shape: LayerShape,
    layers: int,
    backends: Sequence[Backend],
    device: torch.device,
    dtype: torch.dtype,
    tokens: int,
    rounds: int,
) -> dict[str, dict[str, Any]]:
    """Every backend, and for one row the published way, `tokens` tokens in every round, in turn.

    Args:
        shape: of a layer.
        layers: most layers.
        backends: to be timed; at least one.
        device: where.
        dtype: of keys, values and queries.
        tokens: of a round.
        rounds: that are counted.

    Returns:
        By name: us, rounds_us, eager_us (on a GPU), read_bytes, note.
    """
    entries, segments = int(shape.lengths().sum()), shape.rows * shape.kv_heads
    entry = 2 * shape.head_dim * dtype.itemsize
    count = max(1, min(layers, -(-FILLED_BYTES // (entries * entry))))
    gpu = device.type == "cuda"
    made = {one.name: Layers(one, shape, count, device, dtype, tokens + 1) for one in backends}
    warm = {name: min(one.us(tokens, graph=False) for _ in range(2)) for name, one in made.items()}
    notes: dict[str, str] = {}
    if shape.rows == 1:  # as published
        fastest = next(one for one in backends if one.name == min(warm, key=warm.__getitem__))
        published = Published(fastest, device, dtype)
        made[PUBLISHED] = Layers(published, shape, count, device, dtype, tokens + 1)
        notes[PUBLISHED] = f"attention by {published.attention}"
    if gpu:
        for one in made.values():
            one.capture()
    times: dict[str, list[float]] = {name: [] for name in made}
    eager: dict[str, list[float]] = {name: [] for name in made}
    for number, name in in_turn(list(made), rounds):
        found = made[name].us(tokens, graph=gpu)
        slow = made[name].us(tokens, graph=False) if gpu else None
        if number:
            times[name].append(found)
            eager[name] += [] if slow is None else [slow]
    return {
        name: {
            "us": statistics.median(each),
            "rounds_us": each,
            "eager_us": statistics.median(eager[name]) if eager[name] else None,
            "read_bytes": (entries + segments * (tokens + 1) // 2) * entry,
            "note": notes.get(name),
        }
        for name, each in times.items()
    }


def with_shares(
    timed: dict[str, dict[str, Any]], told: dict[str, Any], copy_gb_per_s: float | None
) -> Iterator[Result]:
    """Results with bandwidth, its share of a copy's, and the speed-up against the published way."""
    published = timed.get(PUBLISHED)
    for name, found in timed.items():
        rate = found["read_bytes"] / found["us"] / 1e3
        yield result(
            "kernel",
            **told,
            way=name,
            **found,
            gb_per_s=rate,
            copy_share=None if copy_gb_per_s is None else rate / copy_gb_per_s,
            speedup_against_published=(
                None if published is None or name == PUBLISHED else published["us"] / found["us"]
            ),
        )


def copy_gb_per_s(device: torch.device, size: int = 1 << 28) -> float:
    """Measured bandwidth of a copy, what is read and what is written both counted."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = [_seconds(lambda: target.copy_(source), device) for _ in range(5)]
    return 2 * size / statistics.median(times) / 1e9


def _seconds(work: Callable[[], object], device: torch.device) -> float:
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
