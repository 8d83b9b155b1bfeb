"""The kernel benchmark does the same work every way, the published way included."""

import pytest
import torch
from sparsemm.kernels.backends import TORCH, resolve

from sparsemm.bench import kernel, published
from sparsemm.bench.kernel import Layers, LayerShape, copy_gb_per_s, time_layer, with_shares
from sparsemm.bench.published import PUBLISHED, Published, find_varlen

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPE = LayerShape(rows=1, kv_heads=4, group=2, head_dim=16, mean=24)


def outputs(backend, tokens=3):
    """Of some tokens, and of the same once more after winding back."""
    layers = Layers(backend, SHAPE, 2, DEVICE, torch.float32, tokens + 1)
    first = [layers.token() for _ in range(tokens)]
    layers.wind_back()
    again = [layers.token() for _ in range(tokens)]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    return torch.stack(first)


def one_by_one(queries, keys, values, ones, ends, longest, scaling):
    """Attention of every segment alone, with the signature of FlashAttention's."""
    assert ones.tolist() == list(range(len(queries) + 1))
    starts, stops = ends[:-1].tolist(), ends[1:].tolist()
    assert longest == max(stop - start for start, stop in zip(starts, stops, strict=True))
    out = []
    for query, start, stop in zip(queries, starts, stops, strict=True):
        weights = torch.softmax(scaling * query @ keys[start:stop, 0].T, dim=-1)
        out.append(weights @ values[start:stop, 0])
    return torch.stack(out)


@pytest.mark.parametrize("attention", ["torch", "triton", "flash"])
def test_the_published_way_attends_to_what_ours_attends_to(attention, monkeypatch):
    if attention == "flash":
        monkeypatch.setattr(published, "find_varlen", lambda *_: ("flash", one_by_one))
    else:
        monkeypatch.setattr(published, "find_varlen", lambda *_: None)
    ours = resolve(attention.replace("flash", "torch"), DEVICE, torch.float32, SHAPE.head_dim)
    theirs = Published(ours, DEVICE, torch.float32)
    assert theirs.attention == attention
    assert torch.allclose(outputs(theirs), outputs(TORCH), atol=1e-5)


def test_the_published_way_makes_new_tensors_for_every_token():
    layers = Layers(Published(TORCH, DEVICE, torch.float32), SHAPE, 1, DEVICE, torch.float32, 4)
    held = [layers.arenas[0]]
    for _ in range(2):
        layers.token()
        held.append(layers.arenas[0])
    assert len({one.keys.data_ptr() for one in held}) == len({one.values.data_ptr() for one in held}) == 3
    assert [len(one.keys) - len(held[0].keys) for one in held] == [0, 4, 8]


def test_flash_attention_needs_a_gpu_and_half_precision():
    assert find_varlen(torch.device("cpu"), torch.bfloat16) is None
    assert find_varlen(DEVICE, torch.float32) is None


def test_lengths_are_skewed_about_the_mean():
    lengths = LayerShape(3, 32, 1, 64, 256).lengths()
    assert lengths.shape == (3, 32)
    assert bool(((lengths.float().mean(1) - 256).abs() < 1).all())
    assert int(lengths.max()) > 8 * int(lengths.min())


def test_every_way_is_timed_and_compared(monkeypatch):
    seconds = iter(range(10_000))
    monkeypatch.setattr(kernel, "_seconds", lambda work, device: [work(), float(next(seconds))][1])
    timed = time_layer(SHAPE, 2, [TORCH], DEVICE, torch.float32, tokens=2, rounds=2)
    assert list(timed) == ["torch", PUBLISHED]
    entries = int(SHAPE.lengths().sum()) + 4 * 3 // 2  # in the middle of two tokens
    assert {one["read_bytes"] for one in timed.values()} == {entries * 2 * 16 * 4}
    assert "attention by torch" in timed[PUBLISHED]["note"] or DEVICE.type == "cuda"
    timed["torch"]["us"], timed[PUBLISHED]["us"] = 2.0, 5.0
    ours, theirs = with_shares(timed, {"shape": "tiny", "budget": 24, "rows": 1}, copy_gb_per_s=1.0)
    assert (ours["way"], ours["speedup_against_published"]) == ("torch", 2.5)
    assert theirs["speedup_against_published"] is None
    assert ours["copy_share"] == ours["gb_per_s"] == entries * 128 / 2000


def test_several_rows_have_no_published_way():
    several = LayerShape(2, 4, 2, 16, 8)
    timed = time_layer(several, 1, [TORCH], DEVICE, torch.float32, tokens=1, rounds=1)
    assert list(timed) == ["torch"]


def test_bandwidth_counts_what_is_read_and_written(monkeypatch):
    monkeypatch.setattr(kernel, "_seconds", lambda work, device: 0.5)
    assert copy_gb_per_s(DEVICE, 1 << 20) == 4 * (1 << 20) / 1e9
