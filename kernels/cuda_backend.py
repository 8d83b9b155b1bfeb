"""The cache's operations in CUDA C++ (csrc/): append, gather and decode attention; the rest is Triton's."""

import ctypes
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from .backends import Backend, KernelBackend, capability, refuse
from .cuda_build import SCALARS, Module, Shape, build, find_nvcc
from .work_list import WorkList

HEAD_DIMS = (64, 80, 96, 128, 256)
MAX_GROUP = 8  # query heads of a KV head: more need more registers than there are
SPAN = 512  # tokens that one block of the gather looks through; not measured


class Launcher(Protocol):
    """Where kernels of one shape are: `Module` on a GPU."""

    def launch(self, name: str, grid: tuple[int, int], arguments: list[object], stream: int) -> None:
        """See `cuda_build.Module.launch`."""


class CudaKernels:
    """The kernels with the signatures of their references, for one device, dtype and head_dim.

    Args:
        device: where they run.
        dtype: of keys, values and queries.
        head_dim: D.
        modules: makes the kernels of a number of query heads per KV head.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, head_dim: int):
        self.device, self.dtype, self.head_dim = device, dtype, head_dim
        self.module = lru_cache(maxsize=None)(self._module)
        self.module(1)  # append and gather need no other; a compiler that fails is known now

    def _module(self, group: int) -> Launcher:
        if group > MAX_GROUP:
            told = f"takes up to {MAX_GROUP} query heads for a KV head, but the model has {group}."
            raise refuse("cuda", told)
        found = capability(self.device)
        assert found is not None
        cubin = build(Shape(self.dtype, self.head_dim, group), found)
        with torch.cuda.device(self.device):
            torch.zeros(1, device=self.device)  # the device's context must be there
            return Module(cubin)

    def _launch(self, group: int, name: str, grid: tuple[int, int], *arguments: object) -> None:
        stream = torch.cuda.current_stream(self.device).cuda_stream if self.device.type == "cuda" else 0
        self.module(group).launch(name, grid, list(arguments), stream)

    def append(
        self,
        keys: Tensor,
        values: Tensor,
        tokens: Tensor,
        bias: Tensor,
        starts: Tensor,
        lengths: Tensor,
        new_keys: Tensor,
        new_values: Tensor,
        seen: Tensor,
    ) -> None:
        """See `append.append`."""
        strides = (*new_keys.stride()[:3], *new_values.stride()[:3])
        self._launch(
            1, "append_tokens", (len(starts), 1), new_keys, new_values, *map(ctypes.c_longlong, strides),
            keys, values, tokens, bias, starts, lengths, seen, new_keys.shape[2], new_keys.shape[1],
        )  # fmt: skip

    def gather(
        self,
        keys: Tensor,
        values: Tensor,
        keep: Tensor,
        starts: Tensor,
        out_keys: Tensor,
        out_values: Tensor,
        out_tokens: Tensor,
        shift: int = 0,
    ) -> None:
        """See `gather.gather`."""
        heads, tokens, _ = keys.shape
        strides = (*keys.stride()[:2], *values.stride()[:2])
        self._launch(
            1, "gather_kept", (len(starts), -(-tokens // SPAN)), keys, values, keep, starts, out_keys,
            out_values, out_tokens, *map(ctypes.c_longlong, strides), tokens, shift, heads, SPAN,
        )  # fmt: skip

    def decode(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        starts: Tensor,
        lengths: Tensor,
        scaling: float,
        work: WorkList,
    ) -> Tensor:
        """See `ragged_decode.ragged_decode`."""
        rows, query_heads, dim = queries.shape
        heads = len(starts) // rows
        group, count = query_heads // heads, len(work.segments)
        partial = torch.empty(max(count, 1), group, dim, dtype=torch.float32, device=queries.device)
        sums = torch.empty(max(count, 1), group, dtype=torch.float32, device=queries.device)
        output = torch.empty(rows, query_heads, dim, dtype=queries.dtype, device=queries.device)
        if count:
            self._launch(
                group, "attend_chunk", (count, 1), queries, keys, values, starts, lengths, work.segments,
                work.chunks, work.firsts, partial, sums, float(scaling),
                *map(ctypes.c_longlong, queries.stride()[:2]), heads,
            )  # fmt: skip
        self._launch(
            group, "combine_chunks", (rows * query_heads, 1), partial, sums, lengths, work.firsts, output
        )
        return output


def make(device: torch.device, dtype: torch.dtype, head_dim: int) -> Backend:
    """The backend.

    Raises:
        ValueError: no GPU, no compiler, no Triton, another dtype or head_dim.
    """
    if dtype not in SCALARS:
        raise refuse("cuda", f"computes in float16, bfloat16 and float32, but the keys are {dtype}.")
    if head_dim not in HEAD_DIMS:
        known = ", ".join(map(str, HEAD_DIMS))
        raise refuse("cuda", f"takes a head_dim of {known}, but the model's is {head_dim}.")
    found = capability(device)
    if found is None:
        raise refuse("cuda", f"needs an NVIDIA GPU, but the model is on {device}.")
    if found < (8, 0):
        raise refuse("cuda", f"needs compute capability 8.0, but this GPU has {found[0]}.{found[1]}.")
    if find_nvcc() is None:
        raise refuse("cuda", "is compiled on first use, and nvcc was not found. Install the CUDA toolkit.")
    try:
        from .choose_top import choose_top
        from .window_scores_triton import window_scores

        kernels = CudaKernels(device, dtype, head_dim)
    except torch.OutOfMemoryError:
        raise  # says nothing about the backend
    except (ImportError, RuntimeError, OSError) as error:
        raise refuse("cuda", f"cannot be built or loaded ({error}).") from error
    return KernelBackend("cuda", kernels.append, kernels.decode, kernels.gather, window_scores, choose_top)
