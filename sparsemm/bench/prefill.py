"""What ranking, selection and gathering add to reading a prompt."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparsemm.bench.results import Result, attempt, budget_of, in_turn, result, wait
from sparsemm.cache import RaggedCache, RaggedLayer
from sparsemm.engine.select import Selector
from sparsemm.methods.base import Method
from sparsemm.models.base import LoadedModel, Prompt


class Stopwatch:
    """Sums the time of stretches of work: by events of the device where it has a clock of its own."""

    def __init__(self, device: torch.device):
        self.device = device
        self.stretches: list[Any] = []  # seconds, or pairs of events

    def timed(self, work: Callable[[], None]) -> None:
        """Do `work`; nothing waits for it here."""
        if self.device.type != "cuda":
            began = time.perf_counter()
            work()
            self.stretches.append(time.perf_counter() - began)
            return
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        stop.record()
        self.stretches.append((start, stop))

    def ms(self) -> float:
        """Milliseconds in all."""
        wait(self.device)
        if self.device.type != "cuda":
            return 1000 * float(sum(self.stretches))
        return sum(float(start.elapsed_time(stop)) for start, stop in self.stretches)


class _Untouched(RaggedLayer):
    """Lets the prompt pass: the same path through the model, and no work of the cache."""

    def prefill(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scaling: float
    ) -> None:
        self.observed, self.seen = True, keys.shape[2]


class _Watched(RaggedLayer):
    """Tells how long its own part takes."""

    watch: Stopwatch

    def prefill(self, *tensors: Any) -> None:
        self.watch.timed(partial(super().prefill, *tensors))


def measure(
    loaded: LoadedModel,
    prompt: Prompt,
    methods: Sequence[Method],
    rounds: int,
    backend: str,
    told: dict[str, Any],
) -> Iterator[Result]:
    """One result for each method; the share is of the language model's part, without the vision tower.

    Args:
        loaded: the model.
        prompt: what is read.
        methods: each alone, as in an ordinary run.
        rounds: that are counted.
        backend: who ranks and gathers.
        told: shape and prompt, for the results.
    """
    plain: list[float] = []
    vision: list[float] = []
    times: list[list[tuple[float, float]]] = [[] for _ in methods]
    errors: dict[int, str] = {}
    for number, way in in_turn([-1, *range(len(methods))], rounds):
        if way in errors:
            continue
        if way < 0:
            found, error = attempt(lambda: _without(loaded, prompt))
        else:
            found, error = attempt(partial(_with, loaded, prompt, methods[way], backend))
        if error is not None:
            errors[way] = error
        elif number and found is not None and way < 0:
            plain.append(found[0])
            vision.append(found[1])
        elif number and found is not None:
            times[way].append(found)
    whole = statistics.median(plain) if plain and -1 not in errors else None
    tower = statistics.median(vision) if any(vision) else None
    for place, method in enumerate(methods):
        known: dict[str, Any] = {"prefill_ms": whole, "vision_ms": tower}
        if error := errors.get(place):
            known["error"] = error
        else:
            with_method, select = (list(column) for column in zip(*times[place], strict=True))
            known |= {"with_method_ms": statistics.median(with_method), "rounds_ms": with_method}
            known |= {"select_ms": statistics.median(select), "select_rounds_ms": select}
            if whole is not None:
                known["share"] = known["select_ms"] / (whole - (tower or 0.0))
            else:
                known["error"] = errors[-1]
        yield result("prefill", **told, method=method.name, budget=budget_of(method), **known)


def _without(loaded: LoadedModel, prompt: Prompt) -> tuple[float, float]:
    """Milliseconds of the whole prompt, and of its images in the vision tower."""
    layers = loaded.shape.layers
    cache = RaggedCache(None, layers)
    cache.layers = [_Untouched(index, None, 0, False, None, "torch") for index in range(layers)]
    watch, tower = Stopwatch(loaded.device), _vision(loaded)
    if tower is None:
        return _read(loaded, prompt, cache), 0.0
    forward = tower.forward
    returned: list[Any] = []

    def watched(*args: Any, **kwargs: Any) -> Any:
        watch.timed(lambda: returned.append(forward(*args, **kwargs)))
        return returned.pop()

    tower.forward = watched
    try:
        whole = _read(loaded, prompt, cache)
    finally:
        del tower.forward
    return whole, watch.ms()


def _with(loaded: LoadedModel, prompt: Prompt, method: Method, backend: str) -> tuple[float, float]:
    """Milliseconds of the whole prompt, and of the cache's part in it."""
    selector, watch = Selector([method], loaded.shape), Stopwatch(loaded.device)
    cache = RaggedCache(selector, loaded.shape.layers, backend=backend)
    cache.layers = [
        _Watched(index, selector, one.room, False, None, backend) for index, one in enumerate(cache.layers)
    ]
    for layer in cache.layers:
        layer.watch = watch
    return _read(loaded, prompt, cache), watch.ms()


@torch.inference_mode()
def _read(loaded: LoadedModel, prompt: Prompt, cache: RaggedCache) -> float:
    wait(loaded.device)
    began = time.perf_counter()
    loaded.model(**prompt.inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
    wait(loaded.device)
    return 1000 * (time.perf_counter() - began)


def _vision(loaded: LoadedModel) -> Any:
    """The vision tower of a model that has one."""
    inner = getattr(loaded.model, "model", None)
    return getattr(inner, "visual", None) or getattr(inner, "vision_tower", None)
