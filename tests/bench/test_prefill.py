"""Ranking and cutting are timed apart from reading the prompt."""

import pytest
import torch

from sparsemm.bench import prefill
from sparsemm.bench.results import in_turn

from .conftest import TOLD


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by a second at every look."""
    seconds = iter(range(10_000))
    monkeypatch.setattr(prefill.time, "perf_counter", lambda: float(next(seconds)))


def test_the_caches_part_is_summed_over_the_layers(tiny, prompt, methods, clock):
    found = list(prefill.measure(tiny, prompt, methods, 2, "auto", TOLD))
    layers = tiny.shape.layers
    assert [(one["method"], one["budget"]) for one in found] == [("full", None), ("snapkv", 40)]
    for one in found:
        assert one["select_ms"] == 1000 * layers  # a look before and after the work of each layer
        assert one["with_method_ms"] == 1000 * (2 * layers + 1)
        assert one["prefill_ms"] == 3000 and one["vision_ms"] == 1000  # the whole, and the tower within
        assert one["share"] == one["select_ms"] / (one["prefill_ms"] - one["vision_ms"])
        assert len(one["rounds_ms"]) == 2


def test_reading_without_a_cache_is_the_same_computation(tiny, prompt):
    with torch.inference_mode():
        wanted = tiny.model(**prompt.inputs, logits_to_keep=1).logits
        seen = []
        hook = tiny.model.lm_head.register_forward_hook(lambda *given: seen.append(given[2]))
        prefill._without(tiny, prompt)
        hook.remove()
    assert torch.equal(seen[0], wanted)
    assert "forward" not in vars(tiny.model.model.visual)  # the watch is off again


def test_a_way_without_memory_is_null_and_the_others_go_on(tiny, prompt, methods, monkeypatch):
    real = prefill._with

    def short(loaded, prompt, method, backend):
        if method.budget is None:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(loaded, prompt, method, backend)

    monkeypatch.setattr(prefill, "_with", short)
    full, other = prefill.measure(tiny, prompt, methods, 1, "auto", TOLD)
    assert full["select_ms"] is None and full["error"] == "out of memory: CUDA out of memory."
    assert full["prefill_ms"] > 0
    assert other["share"] > 0 and "error" not in other


def test_rounds_go_forwards_and_backwards():
    assert list(in_turn("ab", 2)) == [(0, "b"), (0, "a"), (1, "a"), (1, "b"), (2, "b"), (2, "a")]


def test_on_a_gpu_stretches_are_timed_by_its_own_clock(monkeypatch):
    """With faked events: nothing waits between start and stop, and the sum is read once all is done."""
    told = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            told.append("record")
            self.at = len(told)

        def elapsed_time(self, stop):
            return stop.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: told.append("wait"))
    watch = prefill.Stopwatch(torch.device("cuda"))
    for _ in range(2):
        watch.timed(lambda: told.append("work"))
    assert watch.ms() == 4.0
    assert told == ["record", "work", "record"] * 2 + ["wait"]
