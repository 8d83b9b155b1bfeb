"""The benchmark times what it says, at a size that runs anywhere."""

import csv
import json

import pytest
import torch

from sparsemm.bench import decode
from sparsemm.bench.decode import NO_METHOD
from sparsemm.bench.kernel import PUBLISHED
from sparsemm.bench.main import parse, run
from sparsemm.bench.shapes import SHAPES, BenchModel

SMALL = ["prompts=96", "tokens=3", "rounds=2", "budgets=40"]


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A clock that goes on by a second at every look."""
    seconds = iter(range(10_000))
    monkeypatch.setattr(decode.time, "perf_counter", lambda: float(next(seconds)))


def test_every_way_is_timed_and_written(tmp_path, capsys):
    assert run([*SMALL, "methods=full,snapkv,sparsemm", "rows=2", f"out={tmp_path}"]) == 0
    found = json.loads((tmp_path / "bench.json").read_text())
    results = found["results"]
    assert [one["name"] for one in results] == [NO_METHOD, "full", "snapkv", "sparsemm"]
    assert [one["budget"] for one in results] == [None, None, 40, 40]
    assert {one["ms_per_token"] for one in results} == {1000 / 3}  # of this test's clock
    assert {one["ratio"] for one in results} == {1.0}
    shape = SHAPES["tiny"]
    entry = 2 * 4 * shape.hidden // shape.heads * shape.layers * shape.kv_heads
    assert [one["cache_bytes"][0] for one in results] == [2 * entry * kept for kept in (96, 96, 40, 40)]
    assert found["machine"]["torch"] == torch.__version__
    with (tmp_path / "bench.csv").open() as file:
        assert [line["name"] for line in csv.DictReader(file)] == [one["name"] for one in results]
    printed = capsys.readouterr().out
    assert "sparsemm budget=40 eager" in printed and "prompt of 96 tokens, cache computed by torch" in printed


def test_a_layers_time_is_told_beside_the_published_way(tmp_path, capsys):
    assert run(["measure=kernel", "budgets=40,80", "tokens=2", f"out={tmp_path}"]) == 0
    results = json.loads((tmp_path / "bench.json").read_text())["results"]
    assert [one["name"] for one in results] == 2 * ["torch", PUBLISHED]
    assert "80 entries per KV head" in capsys.readouterr().out


def test_all_ways_decode_the_same_tokens_where_nothing_is_dropped(monkeypatch):
    """What is timed is the same work: the loop's tokens, watched, are equal with all three caches."""
    from sparsemm.api import make_method

    loaded = BenchModel("tiny", torch.device("cpu"), torch.float32, 200)
    bench = decode.DecodeBench(loaded, [make_method("full"), make_method("snapkv", "budget=500")], 60, 4)
    seen = []
    forward = loaded.model.forward

    def watched(*args, **kwargs):
        seen.append(kwargs["input_ids"].tolist())
        return forward(*args, **kwargs)

    monkeypatch.setattr(loaded.model, "forward", watched)
    for way in (bench._transformers, lambda: bench._eager(0), lambda: bench._eager(1)):
        way()()
    assert seen[:4] == seen[4:8] == seen[8:]


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("shape=huge", "shape=huge: must be one of tiny"),
        ("budget=64", "budget=64: there is no such setting. bench takes: measure"),
        ("prompts=many", "prompts=many: must be a whole number"),
        ("rounds=0", "rounds=0: must be whole numbers of at least 1"),
        ("backend=numpy", "engine.cache_backend=numpy: must be one of"),
        ("decode=graph", "decode=graph: must be one of eager, both"),
    ],
)
def test_what_cannot_be_is_refused(argument, words, capsys):
    assert run([argument]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("argument", ["device=cuda", "decode=both"])
def test_without_a_gpu_what_needs_one_is_refused(argument):
    with pytest.raises(ValueError, match="GPU"):
        parse([argument])


def test_help_names_every_setting(capsys):
    assert run(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {key}=" in printed for key in vars(parse([])))
