"""Milliseconds for a token: transformers' cache, our full cache, methods at their budgets, the published way.

One prompt is read once; every cache is cut from that. All ways decode in turn in one process, and the median
over rounds is told, so that a slow minute of the machine is shared by all. What is timed is decoding alone:
caches are laid out, and graphs captured, before the clock is started. `limits` says what no way can beat.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import DynamicCache

from sparsemm.bench.limits import beyond, limits, weights_read
from sparsemm.bench.published import PUBLISHED, Published
from sparsemm.bench.results import OURS, TRANSFORMERS, Result, attempt, budget_of, free, in_turn, result, wait
from sparsemm.bench.settings import Settings
from sparsemm.cache import Kept, RaggedCache
from sparsemm.engine.graph import GraphDecoder, make_decoder
from sparsemm.engine.greedy import Greedy
from sparsemm.engine.memory import arena_slots, slot_bytes
from sparsemm.engine.select import Selector
from sparsemm.kernels.backends import Backend, KernelBackend
from sparsemm.kernels.static_arena import roomy
from sparsemm.methods.base import Method
from sparsemm.models.base import LoadedModel, Prompt


@dataclass(frozen=True)
class Way:
    """One way to decode; `place` is the method's among those that are measured, None for no method."""

    name: str
    place: int | None
    decode: str


class DecodeBench:
    """A prompt in memory, and the ways to go on from it.

    Args:
        loaded: any model; that answers end is not looked at.
        prompt: what it has read.
        methods: to be compared; the full cache is one of them where it is wanted.
        new_tokens: decoded in every round.
        backend: who computes the cache's operations.
        rows: sequences decoded together, all from the same prompt.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        prompt: Prompt,
        methods: Sequence[Method],
        new_tokens: int,
        backend: str = "auto",
        rows: int = 1,
    ):
        self.loaded, self.prompt, self.methods = loaded, prompt, tuple(methods)
        self.new_tokens, self.rows, self.backend = new_tokens, rows, backend
        self.greedy = Greedy(loaded, ())
        self.decoders: dict[str, GraphDecoder] = {}
        selector = Selector(methods, loaded.shape)
        self.row_of = selector.plan(prompt.tokens).row_of
        with torch.inference_mode():
            self.prefilled = RaggedCache(selector, loaded.shape.layers, hold=True, backend=backend)
            logits = self._read(self.prefilled)
            self.first = logits[:, -1].argmax(-1).expand(rows)
        self.resolved: Backend = self.prefilled.layers[0].backend
        self.lengths = self.prefilled.kept_lengths.cpu()  # [L, rows of the selector, H]

    def ways(self, decodes: Sequence[str]) -> list[Way]:
        """transformers, every method each way, and for one row the methods as the paper's code keeps them."""
        found = [Way(TRANSFORMERS, None, "eager")]
        found += [Way(OURS, place, decode) for place in range(len(self.methods)) for decode in decodes]
        if self.rows == 1:
            cut = [place for place, method in enumerate(self.methods) if method.budget is not None]
            found += [Way(PUBLISHED, place, "eager") for place in cut]
        return found

    def run(self, ways: Sequence[Way], rounds: int) -> dict[Way, tuple[list[float], str | None]]:
        """Milliseconds for a token in every round, or why a way could not be timed."""
        times: dict[Way, list[float]] = {way: [] for way in ways}
        errors: dict[Way, str] = {}
        for number, way in in_turn(ways, rounds):
            if way in errors:
                continue
            try:
                seconds, error = attempt(partial(self._seconds, way))
            except ValueError as refused:  # such as a model that cannot be compiled: the others go on
                seconds, error = None, " ".join(str(refused).split())
            for decoder in self.decoders.values():
                decoder.steps.clear()
            if error is not None:
                errors[way] = error
            elif number and seconds is not None:
                times[way].append(1000 * seconds / self.new_tokens)
        return {way: (times[way], errors.get(way)) for way in ways}

    def entries(self, way: Way) -> int:
        """Cache entries of all rows, layers and KV heads after the prompt."""
        shape = self.loaded.shape
        if way.place is None:
            return self.prompt.tokens * shape.layers * shape.kv_heads * self.rows
        return int(self.lengths[:, self.row_of[way.place]].sum()) * self.rows

    def slot_bytes(self, way: Way) -> int:
        """Bytes that are laid out for them and for the answers."""
        shape, itemsize = self.loaded.shape, int(self.loaded.model.dtype.itemsize)
        segments = shape.layers * shape.kv_heads * self.rows
        if way.name != OURS or way.place is None:
            entry = 2 * shape.head_dim * itemsize
            return (self.entries(way) + self.new_tokens * segments) * entry
        slots = 0
        for lengths in self.lengths[:, self.row_of[way.place]]:
            size = self.rows * sum(arena_slots(lengths, self.new_tokens + 1))
            rounded = way.decode != "eager" and isinstance(self.resolved, KernelBackend)
            slots += roomy(size) if rounded else size  # a captured step's buffers fit other prompts too
        return slots * slot_bytes(shape.head_dim, itemsize)

    def read_bytes(self, way: Way) -> int:
        """Bytes of keys and values that a token reads in the middle of the answer."""
        shape = self.loaded.shape
        grown = (self.new_tokens + 1) * shape.layers * shape.kv_heads * self.rows // 2
        return (self.entries(way) + grown) * 2 * shape.head_dim * int(self.loaded.model.dtype.itemsize)

    def decoding(self, way: Way) -> Callable[[], None]:
        """All that must be done before the clock is started; returns what is timed."""
        if way.place is None:
            cache = self._dynamic()
            return lambda: self._loop(cache)
        if way.name == PUBLISHED:
            held = Published(self.resolved, self.loaded.device, self.loaded.model.dtype)
            return partial(self._loop, self._ragged(way.place, held))
        joined = self._ragged(way.place, self.resolved)
        if way.decode == "eager":
            return partial(self._loop, joined)
        if way.decode not in self.decoders:
            made = make_decoder(way.decode, self.loaded, self.greedy)
            assert made is not None
            self.decoders[way.decode] = made
        positions = torch.full((self.rows,), self.prompt.next_position, device=self.loaded.device)
        decoder, limit = self.decoders[way.decode], self.new_tokens + 1
        with torch.inference_mode():
            step = decoder.step(joined, self.first, positions, None, limit)
            if step.graph is not None:
                step.go()  # a graph goes to the device with its first replay
                again = self._ragged(way.place, self.resolved)
                step = decoder.step(again, self.first, positions, None, limit)
        return partial(step.go, self.new_tokens)

    def _seconds(self, way: Way) -> float:
        decode = self.decoding(way)
        wait(self.loaded.device)
        began = time.perf_counter()
        decode()
        wait(self.loaded.device)
        return time.perf_counter() - began

    def _read(self, cache: Any) -> Tensor:
        output = self.loaded.model(
            **self.prompt.inputs, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        logits: Tensor = output.logits
        return logits

    @torch.inference_mode()
    def _dynamic(self) -> DynamicCache:
        """The prompt in transformers' cache: from our full cache where there is one, or read once more."""
        cache = DynamicCache(config=self.loaded.model.config)
        places = [place for place, method in enumerate(self.methods) if method.budget is None]
        if places:
            for index in range(len(self.prefilled.layers)):
                kept = self._kept(places[0], index)
                shape = (1, self.loaded.shape.kv_heads, self.prompt.tokens, self.loaded.shape.head_dim)
                cache.update(kept.keys.view(shape), kept.values.view(shape), index)
        else:
            self._read(cache)
        if self.rows > 1:
            cache.batch_repeat_interleave(self.rows)
        return cache

    def _kept(self, place: int, layer: int) -> Kept:
        row = self.row_of[place]
        return self.prefilled.layers[layer].held[0].rows(row, row + 1)

    @torch.inference_mode()
    def _ragged(self, place: int, backend: Backend) -> RaggedCache:
        """The cache of one method, once for every row."""
        joined = RaggedCache(None, len(self.prefilled.layers), self.new_tokens + 1, backend=self.backend)
        for index, layer in enumerate(joined.layers):
            layer.backend, layer.seen = backend, self.prompt.tokens
            layer.is_initialized = True  # the backend is known
            layer.held = [self._kept(place, index)] * self.rows
            layer.settle(self.new_tokens + 1)
        return joined

    @torch.inference_mode()
    def _loop(self, cache: Any) -> None:
        """Greedy tokens one by one, as the engine makes them."""
        token = self.first
        for step in range(self.new_tokens):
            positions = torch.full((self.rows,), self.prompt.next_position + step, device=token.device)
            output = self.loaded.model(
                input_ids=token[:, None],
                position_ids=self.loaded.decode_positions(positions),
                past_key_values=cache,
                use_cache=True,
            )
            token = output.logits[:, -1].argmax(-1)


def measure(
    loaded: LoadedModel,
    prompt: Prompt,
    methods: Sequence[Method],
    settings: Settings,
    rows: int,
    copy_gb_per_s: float | None,
    told: dict[str, Any],
) -> Iterator[Result]:
    """One result for each way.

    Args:
        loaded: the model.
        prompt: what it reads.
        methods: to be compared; the full cache is one of them where it is wanted.
        settings: tokens, rounds, ways of decoding, backend.
        rows: sequences decoded together.
        copy_gb_per_s: bandwidth of a copy; None where it is not known.
        told: shape and prompt, for the results.
    """
    common = {**told, "rows": rows, "new_tokens": settings.tokens}
    bench, error = attempt(
        partial(DecodeBench, loaded, prompt, methods, settings.tokens, settings.backend, rows)
    )
    if bench is None:
        for name, method in [(TRANSFORMERS, None), *((OURS, method) for method in methods)]:
            yield result("decode", **common, **_named(name, method), error=error)
        return
    ways = bench.ways(settings.decode)
    found = bench.run(ways, settings.rounds)
    ms = {way: statistics.median(times) for way, (times, failed) in found.items() if failed is None}
    weights = weights_read(loaded)
    attention = Published(bench.resolved, loaded.device, loaded.model.dtype).attention
    backends = {TRANSFORMERS: "torch", OURS: bench.resolved.name, PUBLISHED: attention}
    for way in ways:
        method = None if way.place is None else methods[way.place]
        known: dict[str, Any] = {**common, **_named(way.name, method), "decode": way.decode}
        known |= {"backend": backends[way.name], "slot_bytes": bench.slot_bytes(way)}
        known["entry_bytes"] = bench.entries(way) * 2 * loaded.shape.head_dim * loaded.model.dtype.itemsize
        if way in ms:
            known |= {
                "ms_per_token": ms[way],
                "rounds_ms": found[way][0],
                "tokens_per_s": 1000 * rows / ms[way],
            }
            known |= _compared(way, ms, methods)
        else:
            known["error"] = found[way][1]
        if copy_gb_per_s is not None:
            known |= limits(weights, bench.read_bytes(way), copy_gb_per_s, ms.get(way))
        if note := beyond("limit_share", known.get("limit_share")):
            tqdm.write(f"  {way.name} {known['method']} {way.decode}: {note}")
        yield result("decode", **known)
    del bench
    free()


def _named(way: str, method: Method | None) -> dict[str, Any]:
    if method is None:
        return {"way": way, "method": "full", "budget": None}
    return {"way": way, "method": method.name, "budget": budget_of(method)}


def _compared(way: Way, ms: dict[Way, float], methods: Sequence[Method]) -> dict[str, float | None]:
    """Against our full cache decoded the same way, and against transformers."""
    full = [place for place, method in enumerate(methods) if method.budget is None]
    base = ms.get(Way(OURS, full[0], way.decode)) if full and way.name == OURS else None
    theirs = ms.get(Way(TRANSFORMERS, None, "eager"))
    return {
        "speedup": None if base is None else base / ms[way],
        "against_transformers": None if theirs is None else theirs / ms[way],
    }
