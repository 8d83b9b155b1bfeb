"""Milliseconds for a token: transformers' own cache, our full cache, and methods at their budgets.

One prompt is read once; every cache is cut from that. All are timed in turn in one process, and the median
over rounds is what is told, so that a slow minute of the machine is shared by all.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from sparsemm.bench.shapes import BenchModel
from sparsemm.cache import RaggedCache
from sparsemm.engine.graph import GraphDecoder
from sparsemm.engine.greedy import Greedy
from sparsemm.engine.memory import arena_slots, slot_bytes
from sparsemm.engine.select import Selector
from sparsemm.methods.base import Method

NO_METHOD = "transformers"  # DynamicCache with PyTorch's attention


@dataclass(frozen=True)
class Timed:
    """One way to decode.

    Args:
        name: of the method, or transformers.
        budget: entries per KV head; None for a full cache.
        decode: eager or graph.
        ms_per_token: median over rounds.
        cache_bytes: of the entries, and of the slots laid out for them.
        ratio: ms_per_token of transformers' full cache / this one.
    """

    name: str
    budget: int | None
    decode: str
    ms_per_token: float
    cache_bytes: tuple[int, int]
    ratio: float


class DecodeBench:
    """A prompt in memory, and the ways to go on from it.

    Args:
        loaded: a model of random weights.
        methods: to be compared; the full cache is one of them where it is wanted.
        prompt_tokens: T.
        new_tokens: decoded in every round.
        backend: who computes the cache's operations.
        rows: sequences decoded together, all from the same prompt.
    """

    def __init__(
        self,
        loaded: BenchModel,
        methods: Sequence[Method],
        prompt_tokens: int,
        new_tokens: int,
        backend: str = "auto",
        rows: int = 1,
    ):
        self.loaded, self.methods, self.new_tokens, self.rows = loaded, tuple(methods), new_tokens, rows
        self.tokens = prompt_tokens
        self.greedy = Greedy(loaded, ())
        self.graphs: GraphDecoder | None = None
        selector = Selector(methods, loaded.shape)
        self.row_of = selector.plan(prompt_tokens).row_of
        ids = loaded.random_tokens(prompt_tokens)
        with torch.inference_mode():
            self.prefilled = RaggedCache(selector, loaded.shape.layers, hold=True, backend=backend)
            logits = loaded.model(ids, past_key_values=self.prefilled, logits_to_keep=1).logits
            self.first = logits[:, -1].argmax(-1).expand(rows)
            self.dynamic = DynamicCache(config=loaded.model.config)
            loaded.model(ids, past_key_values=self.dynamic, logits_to_keep=1)
        self.resolved = self.prefilled.layers[0].backend.name

    def run(self, rounds: int, graph: bool = False) -> list[Timed]:
        """Time every way `rounds` times, in turn; the first round is for warming up and not counted."""
        ways: dict[tuple[int, str], Callable[[], Callable[[], None]]] = {(-1, "eager"): self._transformers}
        for index in range(len(self.methods)):
            ways[index, "eager"] = lambda index=index: self._eager(index)  # type: ignore[misc]
            if graph:
                ways[index, "graph"] = lambda index=index: self._graph(index)  # type: ignore[misc]
        times: dict[tuple[int, str], list[float]] = {key: [] for key in ways}
        for number in range(rounds + 1):
            order = list(ways) if number % 2 else list(reversed(ways))
            for key in order:
                went = self._seconds(ways[key]())
                if number:
                    times[key].append(1000 * went / self.new_tokens)
        medians = {key: statistics.median(each) for key, each in times.items()}
        base = medians[-1, "eager"]
        return [self._timed(key, median, base / median) for key, median in medians.items()]

    def _timed(self, key: tuple[int, str], median: float, ratio: float) -> Timed:
        index, decode = key
        if index < 0:
            name, budget, held = NO_METHOD, None, self._dynamic_bytes()
        else:
            method = self.methods[index]
            budget = method.budget if isinstance(method.budget, int) else None
            name, held = method.name, self._ragged_bytes(index)
        return Timed(name, budget, decode, median, held, ratio)

    def _dynamic_bytes(self) -> tuple[int, int]:
        shape, itemsize = self.loaded.shape, self.loaded.model.dtype.itemsize
        entry = 2 * shape.head_dim * itemsize * shape.layers * shape.kv_heads * self.rows
        return entry * self.tokens, entry * (self.tokens + self.new_tokens)

    def _ragged_bytes(self, index: int) -> tuple[int, int]:
        shape, itemsize = self.loaded.shape, self.loaded.model.dtype.itemsize
        lengths = self.prefilled.kept_lengths[:, self.row_of[index]]
        used, spare = arena_slots(lengths, self.new_tokens)
        entries = 2 * shape.head_dim * itemsize * used
        return entries * self.rows, slot_bytes(shape.head_dim, itemsize) * (used + spare) * self.rows

    def _transformers(self) -> Callable[[], None]:
        cache = deepcopy(self.dynamic)
        if self.rows > 1:
            cache.batch_repeat_interleave(self.rows)
        return lambda: self._loop(cache)

    def _eager(self, index: int) -> Callable[[], None]:
        cache = self._rows(index)
        return lambda: self._loop(cache)

    def _graph(self, index: int) -> Callable[[], None]:
        if self.graphs is None:
            self.graphs = GraphDecoder(self.loaded, self.greedy)
        graphs, cache = self.graphs, self._rows(index)
        positions = torch.full((self.rows,), self.tokens, device=self.first.device)

        def decode() -> None:
            graphs.decode(cache, self.first, positions, None, self.new_tokens + 1)

        return decode

    def _rows(self, index: int) -> RaggedCache:
        """The cache of one method, once for every row."""
        row = self.row_of[index]
        joined = RaggedCache(None, len(self.prefilled.layers), self.new_tokens)
        for layer, source in zip(joined.layers, self.prefilled.layers, strict=True):
            layer.backend_name, layer.backend, layer.seen = source.backend_name, source.backend, source.seen
            layer.held = [source.held[0].rows(row, row + 1)] * self.rows
            layer.settle(self.new_tokens + 1)
        return joined

    @torch.inference_mode()
    def _loop(self, cache: Any) -> None:
        """Greedy tokens one by one, as the engine makes them."""
        token: Tensor = self.first
        for step in range(self.new_tokens):
            positions = torch.full((self.rows,), self.tokens + step, device=token.device)
            output = self.loaded.model(
                input_ids=token[:, None],
                position_ids=self.loaded.decode_positions(positions),
                past_key_values=cache,
                use_cache=True,
            )
            token = output.logits[:, -1].argmax(-1)

    def _seconds(self, decode: Callable[[], None]) -> float:
        self._wait()
        began = time.perf_counter()
        decode()
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.loaded.device.type == "cuda":
            torch.cuda.synchronize()
