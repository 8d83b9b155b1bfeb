"""The CUDA C++ kernels: run on the CPU by an emulation, compiled by nvcc where it is, and run on a GPU."""

import ctypes
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sparsemm.kernels import cuda_backend, cuda_build
from sparsemm.kernels.append_ref import append as append_reference
from sparsemm.kernels.cuda_backend import HEAD_DIMS, MAX_GROUP, CudaKernels
from sparsemm.kernels.cuda_build import KERNELS, SOURCE, Shape, as_argument, build, command, find_nvcc
from sparsemm.kernels.gather_ref import gather as gather_reference
from sparsemm.kernels.ragged_decode_ref import ragged_decode as decode_reference

GPU = torch.cuda.is_available()
needs_nvcc = pytest.mark.skipif(find_nvcc() is None, reason="nvcc, the CUDA compiler, is not installed")


class Emulation:
    """The kernels of one shape, compiled for the CPU."""

    def __init__(self, shape: Shape, folder: Path):
        library = folder / f"{hash(shape)}.so"
        source = library.with_suffix(".cpp")
        kernels = "\n".join(f"EMULATE({name})" for name in KERNELS)
        source.write_text(
            f'#include "{Path(__file__).with_name("emulate_cuda.h")}"\n#include "{SOURCE}"\n{kernels}'
        )
        options = ["-O2", "-w", "-std=c++20", "-shared", "-fPIC", *shape.defines]
        subprocess.run(["g++", *options, "-o", library, source], check=True)
        self.library = ctypes.CDLL(str(library))

    def launch(self, name, grid, arguments, stream):
        values = [as_argument(one) for one in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(one) for one in values))
        assert self.library[f"emulate_{name}"](*grid, pointers) == 0, "threads of a block took different ways"


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """The kernels for a dtype and head_dim: on the GPU where there is one, else emulated in float32."""
    folder = tmp_path_factory.mktemp("kernels")

    class Emulated(CudaKernels):
        def _module(self, group):
            return Emulation(Shape(self.dtype, self.head_dim, group), folder)

    def make(head_dim, dtype=torch.float32):
        if GPU:
            return CudaKernels(torch.device("cuda"), dtype, head_dim)
        if dtype != torch.float32:
            pytest.skip("the emulation computes in float32; half precision needs a GPU")
        if shutil.which("g++") is None:
            pytest.skip("g++ is not installed, and there is no GPU")
        return Emulated(torch.device("cpu"), dtype, head_dim)

    return make


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch):
    monkeypatch.setattr(
        cuda_backend.torch, "empty", lambda *shape, **kind: torch.full(shape, float("nan"), **kind)
    )


@pytest.mark.parametrize(
    ("head_dim", "group", "dtype"),
    [
        *[(64, 1, torch.float32), (128, 7, torch.float32), (80, 2, torch.float32), (256, 1, torch.float32)],
        *[(dim, group, torch.float16) for dim in HEAD_DIMS for group in (1, 7)],
        *[(dim, group, torch.bfloat16) for dim in HEAD_DIMS for group in (1, 7)],
    ],
)
def test_attention_equals_float64(kernels, make_case, head_dim, group, dtype):
    case = make_case(head_dim, dtype, group, None if GPU or group == 1 else [[0, 1], [63, 257], [1300, 2]])
    arguments = case.queries, case.keys, case.values, case.starts, case.lengths
    got = kernels(head_dim, dtype).decode(*arguments, 0.2, case.work(room=300))
    tolerance = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    expected = decode_reference(*(one.cpu() for one in arguments), 0.2)
    assert torch.allclose(got.cpu().double(), expected, atol=tolerance, rtol=tolerance)


def test_a_rows_output_is_the_same_to_the_bit_whatever_the_other_rows_hold(kernels, make_case):
    run = kernels(64)
    first = make_case(64, torch.float32, 2, [[257, 65], [300, 1]])
    other = make_case(64, torch.float32, 2, [[257, 65], [0, 1], [700, 9]])
    other.queries[0] = first.queries[0]
    rows = [
        run.decode(case.queries, case.keys, case.values, case.starts, case.lengths, 0.2, case.work())[0]
        for case in (first, other)
    ]
    assert torch.equal(*rows)


@pytest.mark.parametrize(("head_dim", "new"), [(64, 1), (80, 3)])
def test_appending_writes_what_the_reference_writes(kernels, make_case, head_dim, new):
    case = make_case(head_dim, lengths=[[0, 63], [5, 1]])

    def parts(device):
        bias = torch.full((len(case.keys),), float("-inf"))
        tensors = case.keys, case.values, torch.full(bias.shape, -7), bias, case.starts, case.lengths
        return [one.detach().to(device).clone() for one in tensors]

    fresh = torch.randn(2, 2, new, 2, head_dim).transpose(2, 3)
    expected, got = parts("cpu"), parts(case.keys.device)
    append_reference(*expected, *fresh, torch.tensor([50]))
    kernels(head_dim).append(*got, *fresh.to(case.keys.device), torch.tensor([50], device=case.keys.device))
    for left, right in zip(got, expected, strict=True):
        assert torch.equal(left.cpu().nan_to_num(), right.nan_to_num())


@pytest.mark.parametrize("head_dim", [64, 96])
def test_gathering_copies_what_the_reference_copies(kernels, head_dim):
    run, tokens = kernels(head_dim), cuda_backend.SPAN + 150
    keys, values = torch.randn(2, tokens, 2, head_dim).transpose(1, 2)
    keep = torch.rand(3, 2, tokens) < torch.tensor([0.0, 0.1, 1.0])[:, None, None]
    counts = keep.sum(2).flatten() + 4
    starts = counts.cumsum(0) - counts

    def outputs():
        empty = torch.full((2, int(counts.sum()), head_dim), float("nan"))
        return [*empty, torch.full((int(counts.sum()),), -1)]

    expected, got = outputs(), [one.to(run.device) for one in outputs()]
    gather_reference(keys, values, keep, starts, *expected, shift=3)
    run.gather(*(one.to(run.device) for one in (keys, values, keep, starts)), *got, shift=3)
    for left, right in zip(got, expected, strict=True):
        assert torch.equal(left.cpu().nan_to_num(), right.nan_to_num())


@needs_nvcc
@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
@pytest.mark.parametrize(
    ("head_dim", "group", "dtype"),
    [
        *[
            (128, 1, torch.bfloat16),
            (128, 7, torch.bfloat16),
            (128, 4, torch.float16),
            (64, 7, torch.float16),
        ],
        *[(256, MAX_GROUP, torch.bfloat16), (80, 1, torch.float32), (96, MAX_GROUP, torch.float32)],
    ],
)
def test_nvcc_compiles_every_kernel_without_spills(tmp_path, head_dim, group, dtype, capability):
    shape = Shape(dtype, head_dim, group)
    done = subprocess.run(
        command(find_nvcc(), shape, capability, tmp_path / "out.cubin"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    used = re.findall(
        r"entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) reg", done.stderr, re.S
    )
    assert {name for name, _, _ in used} == set(KERNELS)
    for name, spilled, registers in used:
        print(f"{name} {capability} {shape}: {registers} registers, {spilled} bytes spilled")
        assert spilled == "0", name


@needs_nvcc
def test_a_build_is_made_once(tmp_path, monkeypatch):
    shape = Shape(torch.bfloat16, 64, 1)
    made = build(shape, (9, 0), tmp_path)
    assert made.read_bytes()[:4] == b"\x7fELF"
    monkeypatch.setattr(cuda_build, "command", lambda *_: ["false"])
    with pytest.raises(RuntimeError, match="nvcc failed"):
        build(Shape(torch.bfloat16, 128, 1), (9, 0), tmp_path)
    monkeypatch.undo()
    assert build(shape, (9, 0), tmp_path) == made
    assert [path for path in tmp_path.iterdir() if path.suffix != ".cubin"] == []


@pytest.mark.parametrize(
    ("head_dim", "dtype", "device", "found", "words"),
    [
        (
            72,
            torch.float16,
            "cuda",
            (9, 0),
            "takes a head_dim of 64, 80, 96, 128, 256, but the model's is 72",
        ),
        (64, torch.float64, "cuda", (9, 0), "but the keys are torch.float64"),
        (64, torch.float16, "cpu", None, "needs an NVIDIA GPU, but the model is on cpu"),
        (64, torch.float16, "cuda", (7, 5), r"needs compute capability 8\.0, but this GPU has 7\.5"),
    ],
)
def test_what_cannot_run_says_why(monkeypatch, head_dim, dtype, device, found, words):
    monkeypatch.setattr(cuda_backend, "capability", lambda device: found)
    with pytest.raises(ValueError, match=rf"engine\.cache_backend=cuda: .*{words}"):
        cuda_backend.make(torch.device(device), dtype, head_dim)


def test_a_missing_compiler_says_so(monkeypatch):
    monkeypatch.setattr(cuda_backend, "capability", lambda device: (9, 0))
    monkeypatch.setattr(cuda_backend, "find_nvcc", lambda: None)
    with pytest.raises(ValueError, match=r"nvcc was not found\. Install the CUDA toolkit"):
        cuda_backend.make(torch.device("cuda"), torch.float16, 64)


def test_a_driver_without_memory_says_so_as_pytorch_does(monkeypatch, tmp_path):
    cubin = tmp_path / "some.cubin"
    cubin.write_bytes(b"")
    for code, error in ((2, torch.OutOfMemoryError), (700, RuntimeError)):
        driver = SimpleNamespace(cuModuleLoadData=lambda *_, code=code: code)
        monkeypatch.setattr(cuda_build.ctypes, "CDLL", lambda _, driver=driver: driver)
        with pytest.raises(error, match="cannot load the kernels") as raised:
            cuda_build.Module(cubin)
        assert type(raised.value) is error
    monkeypatch.setattr(cuda_backend, "capability", lambda device: (9, 0))
    monkeypatch.setattr(cuda_backend, "find_nvcc", lambda: "nvcc")
    monkeypatch.setattr(CudaKernels, "_module", lambda *_: cuda_build.Module._check(None, 2, "load"))
    with pytest.raises(torch.OutOfMemoryError):
        cuda_backend.make(torch.device("cuda"), torch.float16, 64)


def test_too_many_query_heads_for_a_kv_head_are_refused(kernels):
    with pytest.raises(ValueError, match="takes up to 8 query heads for a KV head, but the model has 9"):
        CudaKernels._module(kernels(64), 9)
