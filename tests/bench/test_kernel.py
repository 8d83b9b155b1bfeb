"""The kernel benchmark does the same work every way, the published way included."""

import pytest
import torch
from sparsemm.kernels.backends import TORCH, Backend, resolve
from torch.utils._python_dispatch import TorchDispatchMode

from sparsemm.bench import kernel, layers, published
from sparsemm.bench.kernel import FILLED_BYTES, copy_gb_per_s, time_layer, with_shares
from sparsemm.bench.layers import Layers, LayerShape
from sparsemm.bench.published import PUBLISHED, Found, Published, find_varlen

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Computations(TorchDispatchMode):
    """Names what is computed: views are not."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view:
            self.names.append(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))


SHAPE = LayerShape(rows=1, kv_heads=4, group=2, head_dim=16, mean=24)


def outputs(backend, tokens=3):
    """Of some tokens, and of the same once more after winding back."""
    made = Layers(backend, SHAPE, 2, DEVICE, torch.float32, tokens + 1)
    first = [made.token() for _ in range(tokens)]
    made.wind_back()
    again = [made.token() for _ in range(tokens)]
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
        monkeypatch.setattr(published, "find_varlen", lambda *_: Found("flash", one_by_one))
    else:
        monkeypatch.setattr(published, "find_varlen", lambda *_: Found("", None))
    ours = resolve(attention.replace("flash", "torch"), DEVICE, torch.float32, SHAPE.head_dim)
    theirs = Published(ours, DEVICE, torch.float32)
    assert theirs.attention == attention
    assert torch.allclose(outputs(theirs), outputs(TORCH), atol=1e-5)


def test_the_published_way_makes_new_tensors_for_every_token():
    made = Layers(Published(TORCH, DEVICE, torch.float32), SHAPE, 1, DEVICE, torch.float32, 4)
    held = [made.arenas[0]]
    for _ in range(2):
        made.token()
        held.append(made.arenas[0])
    assert len({one.keys.data_ptr() for one in held}) == len({one.values.data_ptr() for one in held}) == 3
    assert [len(one.keys) - len(held[0].keys) for one in held] == [0, 4, 8]


def test_flash_attention_needs_a_gpu_and_half_precision():
    assert find_varlen(torch.device("cpu"), torch.bfloat16).run is None
    assert find_varlen(DEVICE, torch.float32).run is None


@pytest.mark.parametrize("group", [1, 7])
def test_pytorchs_flash_attention_takes_a_group_of_query_heads(group):
    """As this PyTorch declares it; what it computes is looked at on a GPU, before it is used."""
    queries, entries = (torch.empty(size, heads, 128, device="meta") for size, heads in ((4, group), (90, 1)))
    ends = torch.empty(5, dtype=torch.int32, device="meta")
    assert published._of_torch()(queries, entries, entries, ends, ends, 60, 0.1).shape == queries.shape


@pytest.mark.parametrize(
    "error", [ValueError("head size"), AssertionError(""), ImportError("undefined symbol"), KeyError("sm_90")]
)
def test_a_flash_attn_that_cannot_run_is_left_out_and_said_so(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(published, "_flash_attn", fail)
    monkeypatch.setattr(published, "_of_torch", lambda: one_by_one)
    monkeypatch.setattr(published, "_try", lambda run, *_: run)
    found = find_varlen.__wrapped__(torch.device("cuda"), torch.float16)
    assert found.run is one_by_one
    assert found.left_out == (f"flash_attn cannot run: {type(error).__name__}: {error}",)
    monkeypatch.setattr(published, "find_varlen", lambda *_: found)
    note = Published(TORCH, torch.device("cpu"), torch.float16).note
    assert note == f"attention by flash attention of PyTorch, copied by PyTorch; {found.left_out[0]}"


def test_a_gpu_without_memory_is_not_a_flash_attn_that_cannot_run(monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(published, "_flash_attn", fail)
    with pytest.raises(torch.OutOfMemoryError):
        find_varlen.__wrapped__(torch.device("cuda"), torch.float16)


def test_the_published_way_does_no_more_than_the_reference_code(monkeypatch):
    """Per token and layer: two copies, one addition, and the attention; all else waits on the host alone."""
    copies = []

    def copied(flat, new, ends, longest):
        copies.append(len(flat))
        return flat.new_zeros(len(flat) + len(new), flat.shape[1])

    monkeypatch.setattr(published, "find_varlen", lambda *_: Found("flash", lambda queries, *_: queries))
    monkeypatch.setattr(published, "_copy", lambda *_: (copied, "this test"))
    made = Layers(Published(TORCH, DEVICE, torch.float32), SHAPE, 2, DEVICE, torch.float32, 4)
    with Computations() as computed:
        made.token()
    assert len(copies) == 4
    assert computed.names == ["aten.add", "aten.new_zeros", "aten.new_zeros"] * 2


def test_lengths_are_skewed_about_the_mean():
    lengths = LayerShape(3, 32, 1, 64, 256).lengths()
    assert lengths.shape == (3, 32)
    assert bool(((lengths.float().mean(1) - 256).abs() < 1).all())
    assert int(lengths.max()) > 8 * int(lengths.min())


def test_every_way_is_timed_and_compared(monkeypatch):
    seconds = iter(range(10_000))
    monkeypatch.setattr(layers, "seconds", lambda work, device: [work(), float(next(seconds))][1])
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


class Broken(Backend):
    """Fails at its third token, or where it is made."""

    def __init__(self, name, error, at):
        self.name, self.error, self.at, self.calls = name, error, at, 0

    def lay_out(self, *arguments):
        if self.at == "made":
            raise self.error
        return super().lay_out(*arguments)

    def attend(self, *arguments, **known):
        self.calls += 1
        if self.calls == 3:
            raise self.error
        return super().attend(*arguments, **known)


@pytest.mark.parametrize("at", ["made", "timed"])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("PassManager::run failed"), "RuntimeError: PassManager::run failed"),
        (ValueError("no such\n shape"), "ValueError: no such shape"),
        (RuntimeError("CUDA error: an illegal address"), "RuntimeError: CUDA error: an illegal address"),
        (torch.OutOfMemoryError("no room"), "out of memory: no room"),
    ],
)
def test_a_backend_that_fails_loses_no_other(error, reason, at):
    backends = [Broken("broken", error, at), TORCH]
    timed = time_layer(SHAPE, 1, backends, DEVICE, torch.float32, tokens=1, rounds=1)
    assert list(timed) == ["broken", "torch", PUBLISHED]
    assert (timed["broken"]["us"], timed["broken"]["error"]) == (None, reason)
    failed, ours, theirs = with_shares(timed, {"shape": "tiny", "budget": 24, "rows": 1}, copy_gb_per_s=1e9)
    for key in ("us", "rounds_us", "gb_per_s", "copy_share", "speedup_against_published"):
        assert failed[key] is None, key
    assert ours["speedup_against_published"] > 0 and "error" not in ours
    assert theirs["gb_per_s"] > 0


def test_on_a_gpu_layers_fill_several_times_its_caches(monkeypatch):
    """Whatever the model has; where there is no GPU, the time is what counts."""
    counts = []

    def made(backend, shape, count, *_):
        counts.append(count)
        raise ValueError("enough")

    monkeypatch.setattr(kernel, "Layers", made)
    qwen = LayerShape(rows=1, kv_heads=4, group=7, head_dim=128, mean=256)
    for device in ("cuda", "cpu"):
        time_layer(qwen, 28, [TORCH], torch.device(device), torch.float32, tokens=1, rounds=1)
    entries = int(qwen.lengths().sum())
    assert counts[0] == counts[1] == -(-FILLED_BYTES // (entries * 2 * 128 * 4)) > 28, "ours and published"
    assert counts[2] == counts[3] == 28


def test_a_share_above_what_a_copy_reaches_is_said(capsys):
    timed = {"torch": {"us": 1.0, "read_bytes": 10**6, "note": None}}
    (slow,), (fast,) = (
        with_shares(timed, {"shape": "tiny", "budget": 24, "rows": 1}, copy_gb_per_s=copy)
        for copy in (2000.0, 800.0)
    )
    assert slow["note"] is None
    assert fast["copy_share"] == 1.25 and "copy_share=125.0%: above what a copy reaches" in fast["note"]
    assert capsys.readouterr().out.count("above what a copy reaches") == 1


def test_bandwidth_counts_what_is_read_and_written_once_the_clocks_have_risen(monkeypatch):
    calls = []

    def timed(work, device):
        calls.append(work())
        return 0.5 if len(calls) <= 3 else 0.2  # the first ones are slow

    monkeypatch.setattr(kernel, "seconds", timed)
    size = 1 << 20
    assert copy_gb_per_s(DEVICE, size, copies=10, warm_s=1.2) == 10 * 2 * size / 0.2 / 1e9
    assert len(calls) == 3 + 5
