"""Peak memory of reading a prompt and answering it, split into weights, cache and activations.

On a GPU the peak is that of PyTorch's allocator. On a CPU it is exact, too: every allocation and release of
PyTorch's allocator, in order, as its profiler records them; what libraries take past it is not seen.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from transformers import DynamicCache

from sparsemm.bench.models import weights_bytes
from sparsemm.bench.results import OURS, TRANSFORMERS, Result, attempt, budget_of, free, result, wait
from sparsemm.cache import RaggedCache
from sparsemm.engine.select import Selector
from sparsemm.methods.base import Method
from sparsemm.models.base import LoadedModel, Prompt


def measure(
    loaded: LoadedModel,
    prompt: Prompt,
    methods: Sequence[Method],
    new_tokens: int,
    backend: str,
    told: dict[str, Any],
) -> Iterator[Result]:
    """One result for transformers' own cache and for each method; one row.

    Every layer is compressed as soon as the prompt has passed it, and decoding is eager, as with
    `sparsemm.api.make_cache`. `less_than_full` is against the smaller full cache, transformers' or ours.

    Args:
        loaded: the only model in memory.
        prompt: what is read.
        methods: each alone.
        new_tokens: decoded after it.
        backend: who computes the cache's operations.
        told: shape and prompt, for the results.
    """
    ways: list[tuple[str, Method | None]] = [(TRANSFORMERS, None), *((OURS, method) for method in methods)]
    found: list[Result] = []
    for way, method in ways:
        named: dict[str, Any] = {"way": way, "method": "full", "budget": None}
        if method is not None:
            named |= {"method": method.name, "budget": budget_of(method)}
        peaks, error = attempt(partial(_peak_of, loaded, prompt, method, new_tokens, backend))
        known = {"error": error} if peaks is None else peaks
        found.append(result("memory", **told, **named, rows=1, new_tokens=new_tokens, **known))
    full = min(
        (one["peak_bytes"] for one in found if one["method"] == "full" and one["peak_bytes"]), default=0
    )
    for one in found:
        if one["method"] != "full" and one["peak_bytes"] and full:
            one["less_than_full"] = 1 - one["peak_bytes"] / full
        yield one


def _peak_of(
    loaded: LoadedModel, prompt: Prompt, method: Method | None, new_tokens: int, backend: str
) -> dict[str, Any]:
    caches: list[Any] = []

    def work() -> None:
        if method is None:
            cache: Any = DynamicCache(config=loaded.model.config)
        else:
            selector = Selector([method], loaded.shape)
            cache = RaggedCache(selector, loaded.shape.layers, room=new_tokens, backend=backend)
        caches.append(cache)
        answer(loaded, prompt, cache, new_tokens)

    weights = weights_bytes(loaded)
    inputs = sum(one.nbytes for one in prompt.inputs.values())
    grown = peak_growth(work, loaded.device)
    cache_bytes = bytes_of(caches[0])
    peak = weights + inputs + grown
    return {
        "peak_bytes": peak,
        "weights_bytes": weights,
        "cache_bytes": cache_bytes,
        "activation_bytes": peak - weights - cache_bytes,
    }


@torch.inference_mode()
def answer(loaded: LoadedModel, prompt: Prompt, cache: Any, new_tokens: int) -> None:
    """Read a prompt and decode `new_tokens` tokens greedily, one row."""
    output = loaded.model(**prompt.inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
    token = output.logits[:, -1].argmax(-1)
    del output
    for step in range(new_tokens):
        positions = torch.full((1,), prompt.next_position + step, device=token.device)
        output = loaded.model(
            input_ids=token[:, None],
            position_ids=loaded.decode_positions(positions),
            past_key_values=cache,
            use_cache=True,
        )
        token = output.logits[:, -1].argmax(-1)


def bytes_of(cache: Any) -> int:
    """Bytes that a cache takes: keys and values of transformers', the arenas of ours with all their slots."""
    if not isinstance(cache, RaggedCache):
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    parts = [part for layer in cache.layers if layer.arena for part in vars(layer.arena).values()]
    return sum(part.nbytes for part in parts if isinstance(part, torch.Tensor))


def peak_growth(work: Callable[[], None], device: torch.device) -> int:
    """By how many bytes the memory in use grew at most while `work` ran."""
    free()
    if device.type != "cuda":
        return _cpu_growth(work)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    wait(device)
    return torch.cuda.max_memory_allocated(device) - before


def _cpu_growth(work: Callable[[], None]) -> int:
    from torch.profiler import ProfilerActivity, profile

    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it prints a line when it starts and stops
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        work()
    events = [one for one in watched.profiler.kineto_results.events() if one.name() == "[memory]"]
    live = top = 0
    for event in sorted(events, key=lambda one: one.start_ns()):
        live += event.nbytes()
        top = max(top, live)
    return top
