"""Compile kernels/csrc on first use, for the GPU at hand and one shape, and launch what comes out.

nvcc makes a cubin, the driver loads it: nothing of PyTorch is compiled against, so neither its headers nor
the CUDA version that it was built with matter, and nothing is built at installation.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from . import work_list

SOURCE = Path(__file__).parent / "csrc" / "ragged.cu"
SCALARS = {torch.float32: "float", torch.float16: "__half", torch.bfloat16: "__nv_bfloat16"}
CHUNKS = ("SHORT", "MIDDLE", "LONG", "PER_SIZE", "MIDDLE_FROM", "LONG_FROM")
THREADS = 128  # as in the source
OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY of the driver
KERNELS = ("attend_chunk", "combine_chunks", "append_tokens", "gather_kept")


@dataclass(frozen=True)
class Shape:
    """What a build is for: element type, head_dim, query heads of a KV head."""

    dtype: torch.dtype
    head_dim: int
    group: int

    @property
    def defines(self) -> list[str]:
        """Options of the compiler."""
        sizes = {name: getattr(work_list, name) for name in CHUNKS}
        named = {"SCALAR": SCALARS[self.dtype], "HEAD_DIM": self.head_dim, "GROUP": self.group, **sizes}
        return [f"-D{name}={value}" for name, value in named.items()]


def find_nvcc() -> str | None:
    """The CUDA compiler: CUDA_HOME, then the path, then the usual place."""
    places = [
        Path(home, "bin", "nvcc") for name in ("CUDA_HOME", "CUDA_PATH") if (home := os.environ.get(name))
    ]
    on_path = shutil.which("nvcc")
    places += [Path(on_path)] if on_path else []
    places.append(Path("/usr/local/cuda/bin/nvcc"))
    return next((str(place) for place in places if place.is_file()), None)


def cache_folder() -> Path:
    """Where builds are kept: SPARSEMM_CACHE, or the user's cache folder."""
    named = os.environ.get("SPARSEMM_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(home) / "sparsemm"


def command(nvcc: str, shape: Shape, capability: tuple[int, int], target: Path) -> list[str]:
    """How a cubin is made; its registers and spills are told on stderr."""
    arch = f"sm_{capability[0]}{capability[1]}"
    options = ["-O3", "-std=c++17", "-cubin", f"-arch={arch}", "--resource-usage", *shape.defines]
    return [nvcc, *options, "-o", str(target), str(SOURCE)]


def build(shape: Shape, capability: tuple[int, int], folder: Path | None = None) -> Path:
    """The cubin of a shape, from the cache or compiled now (seconds).

    Raises:
        RuntimeError: no nvcc, or it failed; the message holds its first error.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise RuntimeError("nvcc was not found on the path, in CUDA_HOME or in /usr/local/cuda/bin")
    told = " ".join(command("nvcc", shape, capability, Path("out")))
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    name = hashlib.sha256((SOURCE.read_text() + told + version).encode()).hexdigest()[:20]
    folder = folder or cache_folder()
    target = folder / f"{name}.cubin"
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            made = Path(aside, "made.cubin")
            done = subprocess.run(command(nvcc, shape, capability, made), capture_output=True, text=True)
            if done.returncode:
                errors = [line for line in done.stderr.splitlines() if "error" in line]
                raise RuntimeError(f"nvcc failed: {(errors or [done.stderr])[0]}")
            made.replace(target)  # whole or not at all, whoever else compiles it
    return target


class Module:
    """A cubin in the driver, on the current device."""

    def __init__(self, cubin: Path):
        self.driver = ctypes.CDLL("libcuda.so.1")
        module = ctypes.c_void_p()
        self._check(
            self.driver.cuModuleLoadData(ctypes.byref(module), cubin.read_bytes()), "load the kernels"
        )
        self.functions: dict[str, ctypes.c_void_p] = {}
        for name in KERNELS:
            function = ctypes.c_void_p()
            found = self.driver.cuModuleGetFunction(ctypes.byref(function), module, name.encode())
            self._check(found, f"find {name}")
            self.functions[name] = function

    def launch(self, name: str, grid: tuple[int, int], arguments: Sequence[object], stream: int) -> None:
        """Launch on a stream; nothing is waited for, so it may be captured into a graph."""
        values = [as_argument(one) for one in arguments]
        pointers = (ctypes.c_void_p * len(values))(
            *(ctypes.cast(ctypes.byref(one), ctypes.c_void_p) for one in values)
        )
        done = self.driver.cuLaunchKernel(
            self.functions[name], *grid, 1, THREADS, 1, 1, 0, ctypes.c_void_p(stream), pointers, None
        )
        self._check(done, f"launch {name}")

    def _check(self, code: int, what: str) -> None:
        if code == OUT_OF_MEMORY:
            raise torch.OutOfMemoryError(f"CUDA out of memory: the driver cannot {what}.")
        if code:
            raise RuntimeError(f"The CUDA driver cannot {what}: error {code}.")


def as_argument(value: object) -> "ctypes._SimpleCData[object]":
    """A kernel's argument: tensors as pointers, long long where a stride is meant, int and float."""
    if isinstance(value, torch.Tensor):
        return ctypes.c_void_p(value.data_ptr())  # type: ignore[return-value]
    if isinstance(value, ctypes._SimpleCData):
        return value
    if isinstance(value, float):
        return ctypes.c_float(value)  # type: ignore[return-value]
    assert isinstance(value, int)
    return ctypes.c_int(value)  # type: ignore[return-value]
