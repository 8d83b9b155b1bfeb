"""The cache's operations in Triton: on NVIDIA GPUs from sm_80 on, or slowly in its interpreter."""

import os

import torch

from .backends import Backend, KernelBackend, capability, refuse

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
MAX_HEAD_DIM = 256  # the tests hold 64, 80, 96, 128 and 256
OLDEST = (8, 0)  # compute capability


def make(device: torch.device, dtype: torch.dtype, head_dim: int) -> Backend:
    """The backend.

    Raises:
        ValueError: no Triton, no GPU that it can use, another dtype, a head_dim that is too large.
    """
    if dtype not in DTYPES:
        raise refuse("triton", f"computes in float16, bfloat16 and float32, but the keys are {dtype}.")
    if head_dim > MAX_HEAD_DIM:
        raise refuse("triton", f"takes a head_dim of up to {MAX_HEAD_DIM}, but the model's is {head_dim}.")
    found = capability(device)
    if found is not None and found < OLDEST:
        raise refuse("triton", f"needs compute capability 8.0, but this GPU has {found[0]}.{found[1]}.")
    if found is None and os.environ.get("TRITON_INTERPRET") != "1":
        raise refuse("triton", f"needs an NVIDIA GPU, but the model is on {device}.")
    try:
        from .append import append
        from .choose_top import choose_top
        from .gather import gather
        from .ragged_decode import ragged_decode
        from .window_scores_triton import window_scores
    except ImportError as error:
        raise refuse("triton", f"cannot be imported ({error}). Install it (pip install triton).") from None
    return KernelBackend("triton", append, ragged_decode, gather, window_scores, choose_top)
