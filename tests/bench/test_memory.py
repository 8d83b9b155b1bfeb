"""Peak memory is counted exactly, and no more than one layer of a cache is ever held twice."""

import pytest
import torch
from sparsemm.kernels import window_scores

from sparsemm.api import make_method
from sparsemm.bench import memory
from sparsemm.bench.memory import answer, bytes_of, peak_growth
from sparsemm.cache import RaggedCache
from sparsemm.engine.generate import Engine
from sparsemm.engine.select import Selector

from .conftest import TOLD

CPU = torch.device("cpu")
LAYERS, HEADS, TOKENS, DIM = 16, 4, 500, 32
ENTRIES = 4 * 2 * HEADS * TOKENS * DIM  # bytes of one layer's keys and values


def test_the_peak_is_that_of_everything_alive_at_once():
    def work():
        first = torch.zeros(1000, 1000)  # 4 MB
        second = first + 1  # 8
        del first
        third = second + second  # 8
        del second
        torch.cat([third, third])  # 12

    assert peak_growth(work, CPU) == 12_000_000
    assert peak_growth(lambda: None, CPU) == 0


def test_every_way_is_split_into_weights_cache_and_the_rest(tiny, prompt, methods):
    found = list(memory.measure(tiny, prompt, methods, 3, "auto", TOLD))
    assert [(one["way"], one["method"], one["budget"]) for one in found] == [
        ("transformers", "full", None),
        ("ragged", "full", None),
        ("ragged", "snapkv", 40),
    ]
    weights = sum(one.nbytes for one in tiny.model.parameters())
    theirs, full, cut = found
    shape = tiny.shape
    token = 4 * 2 * shape.layers * shape.kv_heads * shape.head_dim
    assert theirs["cache_bytes"] == token * (160 + 3)
    for one in found:
        assert weights <= one["weights_bytes"] < 1.01 * weights
        parts = one["weights_bytes"] + one["cache_bytes"] + one["activation_bytes"]
        assert one["peak_bytes"] == parts
    assert cut["cache_bytes"] < full["cache_bytes"] / 2
    assert full["less_than_full"] is theirs["less_than_full"] is None
    assert cut["less_than_full"] == 1 - cut["peak_bytes"] / min(full["peak_bytes"], theirs["peak_bytes"])


def test_a_way_without_memory_is_null_and_the_others_go_on(tiny, prompt, methods, monkeypatch):
    real = memory.answer

    def short(loaded, prompt, cache, new_tokens):
        if not isinstance(cache, RaggedCache):
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes.")
        real(loaded, prompt, cache, new_tokens)

    monkeypatch.setattr(memory, "answer", short)
    theirs, full, cut = memory.measure(tiny, prompt, methods, 1, "auto", TOLD)
    assert theirs["peak_bytes"] is None and "can't allocate memory" in theirs["error"]
    assert full["peak_bytes"] > 0 and cut["peak_bytes"] > 0


def _prefill(cache):
    """What attention does in every layer, without a model."""
    for layer in cache.layers:
        keys, values, queries = torch.ones(3, 1, HEADS, TOKENS, DIM)
        layer.lazy_initialization(keys, values)
        layer.prefill(queries, keys, values, None, 1.0)


@pytest.mark.parametrize("name", ["full", "snapkv"])
def test_reading_a_prompt_holds_what_is_kept_once(name):
    """The cache, and one layer's prompt, copy and layout at a time."""
    given = [] if name == "full" else ["budget=100"]
    shape = memory_shape()
    kept = []

    def work():
        cache = RaggedCache(Selector([make_method(name, *given)], shape), LAYERS, room=1)
        _prefill(cache)
        kept.append(bytes_of(cache))

    grown = peak_growth(work, CPU)
    assert grown < kept[0] + 5.5 * ENTRIES
    assert kept[0] > (LAYERS if name == "full" else LAYERS / 5) * ENTRIES


def test_the_last_rows_that_are_joined_let_go_of_what_was_held():
    """Twice the cache would be LAYERS more."""
    methods = [make_method("full"), make_method("snapkv", "budget=400")]
    kept = []

    def work(release):
        held = RaggedCache(Selector(methods, memory_shape()), LAYERS, hold=True)
        _prefill(held)
        joined = RaggedCache.join([held], (0, 2), 1, release=release)
        kept.append(bytes_of(joined))
        assert held.kept_lengths.sum() == joined.kept_lengths.sum()

    once, twice = (peak_growth(lambda release=release: work(release), CPU) for release in (True, False))
    assert once < kept[0] + 7 * ENTRIES
    assert twice > kept[0] + LAYERS * ENTRIES


def test_the_engine_answers_in_chunks_as_at_once_though_the_last_lets_go(tiny, prompt, methods):
    whole = Engine(tiny, methods, 4).answer([prompt, prompt])
    chunks = Engine(tiny, methods, 4, fixed_rows=3).answer([prompt, prompt])
    tokens = [[one.token_ids for one in each] for each in (*whole, *chunks)]
    assert tokens[:2] == tokens[2:]


def test_ranking_a_long_prompt_takes_a_few_heads_at_a_time(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(8, 4, 16, generator=generator)
    keys = torch.randn(4, 900, 16, generator=generator)
    at_once = window_scores.window_scores(queries, keys, 0.25, 896, 5)
    grown = {}
    for together in (4, 1):
        monkeypatch.setattr(window_scores, "AT_ONCE", together * 900 * (2 * 4 + 16))
        found = []
        grown[together] = peak_growth(
            lambda found=found: found.append(window_scores.window_scores(queries, keys, 0.25, 896, 5)), CPU
        )
        torch.testing.assert_close(found[0], at_once)
    assert grown[1] < grown[4] / 2


def test_answer_decodes_as_the_engine_does(tiny, prompt, methods):
    seen = []
    forward = tiny.model.forward

    def watched(*args, **kwargs):
        if "pixel_values" not in kwargs:
            seen.append(int(kwargs["input_ids"]))
        return forward(*args, **kwargs)

    cache = RaggedCache(Selector(methods[1:], tiny.shape), tiny.shape.layers)
    tiny.model.forward = watched
    try:
        answer(tiny, prompt, cache, 4)
    finally:
        del tiny.model.forward
    assert tuple(seen) == Engine(tiny, methods[1:], 4).answer([prompt])[0][0].token_ids


def memory_shape():
    from sparsemm.methods.base import ModelShape

    return ModelShape(LAYERS, HEADS, HEADS, DIM)


def test_on_a_gpu_the_peak_is_the_allocators_since_the_reset(monkeypatch):
    """With a faked allocator: what was there before does not count."""
    state = {"now": 70, "top": 500}
    faked = {
        "is_available": lambda: False,
        "synchronize": lambda device: None,
        "reset_peak_memory_stats": lambda device: state.update(top=state["now"]),
        "memory_allocated": lambda device: state["now"],
        "max_memory_allocated": lambda device: state["top"],
    }
    for name, fake in faked.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    assert peak_growth(lambda: state.update(now=90, top=130), torch.device("cuda")) == 60
