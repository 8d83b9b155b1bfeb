"""Every way decodes the same work, and its result says what was measured."""

from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch
from sparsemm.kernels.backends import resolve

from sparsemm.api import make_method
from sparsemm.bench import decode
from sparsemm.bench.decode import OURS, PUBLISHED, TRANSFORMERS, DecodeBench, Way, measure
from sparsemm.bench.limits import limits, weights_read
from sparsemm.bench.prompts import make_prompt
from sparsemm.bench.results import COLUMNS
from sparsemm.bench.settings import SMOKE, Settings
from sparsemm.engine.graph import GraphDecoder, Step

TOLD = {"shape": "tiny", "prompt_tokens": 96, "image_tokens": 0}


@pytest.fixture(scope="module")
def settings():
    rest = {"methods": ("full", "snapkv"), "backend": "auto", "smoke": False, "out": "-", "tokens": 3}
    return Settings(**{**dict.fromkeys(one.name for one in fields(Settings)), **SMOKE, **rest})


@pytest.fixture(scope="module")
def prompt(tiny):
    return make_prompt(tiny, 96)


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by a second at every look."""
    seconds = iter(range(10_000))
    monkeypatch.setattr(decode.time, "perf_counter", lambda: float(next(seconds)))


@pytest.mark.parametrize("rows", [1, 3])
def test_every_way_has_a_result_of_the_known_form(tiny, prompt, methods, settings, clock, rows):
    found = list(measure(tiny, prompt, methods, settings, rows, 2.0, TOLD))
    ways = [(one["way"], one["method"], one["budget"]) for one in found]
    expected = [(TRANSFORMERS, "full", None), (OURS, "full", None), (OURS, "snapkv", 40)]
    assert ways == expected + [(PUBLISHED, "snapkv", 40)] * (rows == 1)
    columns = {"measure", "shape", *COLUMNS["decode"]}
    assert all(set(one) == columns for one in found)
    assert {one["ms_per_token"] for one in found} == {1000 / 3}  # of this test's clock
    assert {len(one["rounds_ms"]) for one in found} == {settings.rounds}
    assert {one["tokens_per_s"] for one in found} == {3.0 * rows}
    assert [one["speedup"] for one in found[:3]] == [None, 1.0, 1.0]
    assert {one["against_transformers"] for one in found} == {1.0}
    entry = 2 * 4 * tiny.shape.head_dim * tiny.shape.layers * tiny.shape.kv_heads * rows
    kept = [96, 96, 40, 40]
    assert [one["entry_bytes"] for one in found] == [entry * held for held in kept[: len(found)]]
    assert all(one["slot_bytes"] >= one["entry_bytes"] + 3 * entry for one in found)
    read = weights_read(tiny) + entry * (40 + 2)  # in the middle of three tokens
    assert found[2]["limit_ms"] == pytest.approx(read / 2e6)


def test_all_ways_compute_the_same_where_nothing_is_dropped(tiny, prompt, methods, monkeypatch):
    bench = DecodeBench(tiny, prompt, [methods[0], make_method("snapkv", "budget=500"), methods[1]], 4)
    monkeypatch.setattr(
        decode, "make_decoder", lambda _, model, greedy: GraphDecoder(model, greedy, capture=False)
    )
    logits, forward = [], tiny.model.forward

    def watched(*args, **kwargs):
        output = forward(*args, **kwargs)
        logits.append(output.logits[0, -1])
        return output

    monkeypatch.setattr(tiny.model, "forward", watched)
    ways = [way for way in bench.ways(["eager", "graph"]) if way.place != 2]
    for way in [*ways, Way(OURS, 2, "eager")]:
        bench.decoding(way)()
    first, *same, dropped = (torch.stack(logits[at : at + 4]) for at in range(0, len(logits), 4))
    assert len(same) == 5
    assert all(torch.allclose(one, first, atol=1e-5) for one in same)
    assert not torch.allclose(dropped, first, atol=1e-5)


def test_the_first_replay_of_a_graph_is_not_timed(tiny, prompt, methods, settings, monkeypatch):
    """It takes the graph to the device; afterwards the buffers are filled again."""
    replayed = []

    def capture(self):
        self.graph = SimpleNamespace(replay=lambda: replayed.append(self.rows.clock.item()))

    monkeypatch.setattr(Step, "capture", capture)
    monkeypatch.setattr(
        decode, "make_decoder", lambda _, model, greedy: GraphDecoder(model, greedy, capture=False)
    )
    monkeypatch.setattr(GraphDecoder, "step", captured(GraphDecoder.step))
    bench = DecodeBench(tiny, prompt, methods, 4)
    go = bench.decoding(Way(OURS, 1, "graph"))
    (step,) = bench.decoders["graph"].steps.values()
    rooms = [layer.arena.room for layer in step.rows.cache.layers]
    assert len(replayed) == 1 and set(rooms) == {5}
    go()
    assert len(replayed) == 5


def captured(make):
    """Steps as on a GPU."""

    def step(self, *arguments):
        self.capture = True
        return make(self, *arguments)

    return step


@pytest.mark.parametrize("kernels", [False, True])
def test_a_graphs_buffers_count_as_they_are_laid_out(tiny, prompt, methods, monkeypatch, kernels):
    bench = DecodeBench(tiny, prompt, methods, 4, rows=2)
    if kernels:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # nothing is computed with it
        bench.resolved = resolve("triton", device, tiny.model.dtype, tiny.shape.head_dim)
    monkeypatch.setattr(
        decode, "make_decoder", lambda _, model, greedy: GraphDecoder(model, greedy, capture=False)
    )
    for decoding in ("eager", "graph"):
        way = Way(OURS, 1, decoding)
        if decoding == "graph":
            bench.decoding(way)
            (step,) = bench.decoders["graph"].steps.values()
            cache = step.rows.cache
        else:
            cache = bench._ragged(1, bench.resolved)
        arenas = [layer.arena for layer in cache.layers]
        fields = [getattr(one, name) for one in arenas for name in ("keys", "values", "tokens", "bias")]
        assert bench.slot_bytes(way) == sum(one.nbytes for one in fields)


def test_a_share_above_the_limit_is_said(tiny, prompt, methods, settings, clock, capsys):
    found = list(measure(tiny, prompt, methods, settings, 1, 1e-9, TOLD))
    assert all(one["limit_share"] > 1 for one in found)
    assert capsys.readouterr().out.count("above what a copy reaches") == len(found)


def test_without_a_full_cache_transformers_reads_the_prompt_itself(tiny, prompt, methods):
    with_full, alone = (DecodeBench(tiny, prompt, given, 2, rows=2) for given in (methods, methods[1:]))
    left, right = with_full._dynamic(), alone._dynamic()
    for one, other in zip(left.layers, right.layers, strict=True):
        assert torch.equal(one.keys, other.keys)
        assert torch.equal(one.values, other.values)


def test_what_had_no_memory_says_so_and_the_others_go_on(tiny, prompt, methods, settings, monkeypatch):
    def dynamic(self):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(DecodeBench, "_dynamic", dynamic)
    first, *others = measure(tiny, prompt, methods, settings, 1, None, TOLD)
    assert first["ms_per_token"] is None
    assert "out of memory" in first["error"]
    assert all(one["ms_per_token"] > 0 and one["limit_ms"] is None for one in others)
    assert all(one["against_transformers"] is None for one in others)


def test_a_way_that_is_refused_leaves_the_others(tiny, prompt, methods, settings, monkeypatch):
    def refuse(*_):
        raise ValueError("engine.decode=compiled: this model's step is not one graph")

    monkeypatch.setattr(decode, "make_decoder", refuse)
    asked = replace(settings, decode=("compiled", "eager"))
    found = list(measure(tiny, prompt, methods, asked, 1, None, TOLD))
    refused = [one for one in found if one["decode"] == "compiled"]
    assert len(refused) == 2 and all("not one graph" in one["error"] for one in refused)
    assert all(one["ms_per_token"] > 0 for one in found if one["decode"] == "eager")


def test_weights_count_without_the_table_of_embeddings_and_the_vision_tower(tiny):
    counted = weights_read(tiny)
    model = tiny.model
    left_out = sum(one.nbytes for name, one in model.named_parameters() if ".visual." in name)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    left_out += 0 if tied else model.get_input_embeddings().weight.nbytes
    assert left_out > 0
    assert counted == sum(one.nbytes for one in model.parameters()) - left_out


def test_limits_are_bytes_at_the_bandwidth_of_a_copy():
    found = limits(weights=3_000_000, cache=1_000_000, copy_gb_per_s=2.0, ms=8.0)
    assert found == {"limit_ms": 2.0, "limit_share": 0.25, "weight_limit_share": 1.5 / 8}
