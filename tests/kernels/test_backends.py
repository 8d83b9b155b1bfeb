"""Backends are chosen by name; one that cannot run says why."""

import sys

import pytest
import torch
from sparsemm.kernels import backends, ragged_attention
from sparsemm.kernels.backends import TORCH, resolve
from torch.utils._python_dispatch import TorchDispatchMode

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def forget():
    backends._found.cache_clear()
    yield
    backends._found.cache_clear()


def test_auto_is_torch_on_the_cpu():
    assert resolve("auto", CPU, torch.float32, 16) is TORCH


def test_auto_is_torch_on_a_gpu_until_kernels_are_measured_there():
    assert resolve("auto", GPU, torch.bfloat16, 128) is TORCH


@pytest.mark.parametrize(
    ("name", "device", "dtype", "head_dim", "words"),
    [
        ("tritn", CPU, torch.float32, 64, "must be one of auto, torch, triton, cuda, flash_attn"),
        ("triton", GPU, torch.float64, 64, "but the keys are torch.float64"),
        ("triton", GPU, torch.float32, 512, "a head_dim of up to 256, but the model's is 512"),
        ("flash_attn", CPU, torch.float16, 64, "needs an NVIDIA GPU, but the model is on cpu"),
        ("flash_attn", GPU, torch.float32, 64, "but the keys are torch.float32"),
        ("flash_attn", GPU, torch.float16, 60, "but the model's is 60"),
    ],
)
def test_a_backend_that_cannot_run_says_why(monkeypatch, name, device, dtype, head_dim, words):
    monkeypatch.setattr("sparsemm.kernels.triton_backend.capability", lambda device: (9, 0))
    with pytest.raises(ValueError, match=rf"engine\.cache_backend={name}: .*{words}"):
        resolve(name, device, dtype, head_dim)


def test_an_old_gpu_is_refused(monkeypatch):
    monkeypatch.setattr("sparsemm.kernels.triton_backend.capability", lambda device: (7, 5))
    with pytest.raises(ValueError, match=r"needs compute capability 8\.0, but this GPU has 7\.5"):
        resolve("triton", GPU, torch.float16, 64)


def test_no_gpu_and_no_interpreter_is_refused(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="needs an NVIDIA GPU, but the model is on cpu"):
        resolve("triton", CPU, torch.float16, 64)


def test_a_missing_triton_is_refused(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in ("append", "gather", "ragged_decode", "window_scores_triton"):
        monkeypatch.delitem(sys.modules, f"sparsemm.kernels.{name}", raising=False)
    with pytest.raises(ValueError, match=r"engine\.cache_backend=triton: cannot be imported"):
        resolve("triton", CPU, torch.float16, 64)


def test_a_missing_flash_attn_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with pytest.raises(ValueError, match=r"engine\.cache_backend=flash_attn: cannot be imported"):
        resolve("flash_attn", GPU, torch.float16, 64)


def test_flash_attn_reads_every_size_class_as_a_batch_of_caches(monkeypatch):
    """A stand-in for flash-attn with the same signature, in float32: what is checked is how it is called."""
    from sparsemm.kernels.flash_backend import FlashBackend

    def kvcache(q, k_cache, v_cache, cache_seqlens, softmax_scale):
        logits = softmax_scale * torch.einsum("nqgd,ntkd->ngt", q, k_cache)
        logits.masked_fill_(torch.arange(k_cache.shape[1]) >= cache_seqlens[:, None, None], float("-inf"))
        return torch.einsum("ngt,ntkd->ngd", logits.softmax(-1), v_cache)[:, None]

    module = type(sys)("flash_attn")
    module.flash_attn_with_kvcache = kvcache
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    arena, queries = filled(TORCH)
    expected = ragged_attention.attend(arena, queries, 0.3)
    assert torch.allclose(FlashBackend().attend(arena, queries, 0.3), expected, atol=1e-6)


LENGTHS = torch.tensor([[0, 5], [63, 257], [16, 130]])


def filled(backend):
    """An arena after three tokens, for which it had to grow, and queries."""
    torch.manual_seed(0)
    total = int(LENGTHS.sum())
    arena = backend.lay_out(*torch.randn(2, total, 16), torch.arange(total) % 300, LENGTHS, 1)
    for step in range(3):
        arena = backend.append(arena, *torch.randn(2, 3, 2, 1, 16), 300 + step, 2)
    return arena, torch.randn(3, 6, 1, 16)


@pytest.mark.parametrize("masked", [False, True])
def test_a_kernel_backend_does_what_torch_does(masked):
    """Laying out, growing, appending and attending; what the kernels do not do is left to PyTorch."""
    device = GPU if torch.cuda.is_available() else CPU
    triton = resolve("triton", device, torch.float32, 16)
    with torch.device(device):
        (left, queries), (right, _) = filled(TORCH), filled(triton)
    for name in ("keys", "values", "tokens", "bias", "lengths", "starts"):
        assert torch.equal(getattr(left, name), getattr(right, name)), name
    assert left.room == right.room
    mask = torch.rand(3, 1, 1, 303, device=device) < 0.8 if masked else None
    expected = TORCH.attend(left, queries, 0.3, mask)
    assert torch.allclose(triton.attend(right, queries, 0.3, mask), expected, atol=1e-6)


def test_a_kernel_backend_gathers_what_torch_gathers():
    device = GPU if torch.cuda.is_available() else CPU
    keys, values = torch.randn(2, 90, 3, 16, device=device).transpose(1, 2)
    keep = torch.rand(4, 3, 90, device=device) < 0.3
    keep[2, 1] = False
    triton = resolve("triton", device, torch.float32, 16)
    for left, right in zip(TORCH.gather(keys, values, keep), triton.gather(keys, values, keep), strict=True):
        assert torch.equal(left, right)


def test_known_lengths_are_taken_for_those_that_are_counted():
    device = GPU if torch.cuda.is_available() else CPU
    keys, values = torch.randn(2, 40, 3, 16, device=device).transpose(1, 2)
    keep = torch.rand(2, 3, 40, device=device) < 0.3
    for backend in (TORCH, resolve("triton", device, torch.float32, 16)):
        *counted, lengths = backend.gather(keys, values, keep)
        *known, given = backend.gather(keys, values, keep, lengths)
        assert lengths.device.type == "cpu" and given is lengths
        assert all(torch.equal(one, other) for one, other in zip(counted, known, strict=True))


class Launches(TorchDispatchMode):
    """Counts what would compute on the device `meta`."""

    FREE = ("empty", "view", "slice", "unbind", "detach", "_unsafe_view")

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found, name = function(*args, **(kwargs or {})), function.overloadpacket.__name__
        on_device = isinstance(found, torch.Tensor) and found.device.type == "meta"
        if on_device and not name.startswith(self.FREE):
            self.names.append(name)
        return found


def test_laying_out_a_layer_is_few_launches_where_the_host_knows_the_lengths():
    """A prompt is read at the same time: with 60 launches a layer they are a part of its time that counts."""
    triton = resolve("triton", GPU if torch.cuda.is_available() else CPU, torch.float32, 16)
    lengths = torch.tensor([[300, 5], [0, 2000]])
    entries = torch.empty(2, int(lengths.sum()), 16, device="meta")
    with Launches() as launched:
        triton.lay_out(*entries, torch.empty(len(entries[0]), dtype=torch.long, device="meta"), lengths, 7)
    assert launched.names.count("_to_copy") == 4, "one for segments, three for their chunks"
    assert len(launched.names) <= 20, launched.names
