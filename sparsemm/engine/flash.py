"""FlashAttention 2 for reading prompts: the only importer of flash_attn.

transformers reaches flash-attn by the name of the attention that is set, and ours has another; so its own
function is called. Prompts are read alone and without padding, so none of its variants is needed.
"""

from collections.abc import Callable

import torch
from torch import Tensor

INSTEAD = "or set model.attention=sdpa."


def load_flash_attention() -> Callable[..., Tensor]:
    """`flash_attn.flash_attn_func`.

    Raises:
        ValueError: flash-attn is not installed, or does not fit this PyTorch.
    """
    try:
        from flash_attn import flash_attn_func
    except ImportError as error:
        raise ValueError(
            f"model.attention=flash_attention_2: flash-attn cannot be imported ({error}). "
            f"Install it beside this PyTorch (pip install flash-attn --no-build-isolation), {INSTEAD}"
        ) from None
    found: Callable[..., Tensor] = flash_attn_func
    return found


def check_flash_attention(device: torch.device, dtype: torch.dtype) -> None:
    """Raise ValueError where a model cannot run flash-attn: no GPU, another dtype, no flash-attn."""
    if device.type != "cuda":
        raise ValueError(
            f"model.attention=flash_attention_2: needs an NVIDIA GPU, but the model is on {device}. "
            f"Set engine.device=cuda on a machine that has one, {INSTEAD}"
        )
    if dtype not in (torch.float16, torch.bfloat16):
        raise ValueError(
            f"model.attention=flash_attention_2: computes in float16 and bfloat16, but the model is {dtype}. "
            f"Set model.dtype=bfloat16, {INSTEAD}"
        )
    load_flash_attention()


def refuse_padding(mask: Tensor | None) -> None:
    """Raise ValueError where a batch is padded; transformers makes a mask for flash-attn only then."""
    if mask is not None:
        raise ValueError(
            "attention_mask: flash_attention_2 reads prompts without padding. "
            "Give prompts of one length, one at a time, or set model.attention=sdpa."
        )


def flash_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None) -> Tensor:
    """Causal attention of query [B, Hq, q, D] over key, value [B, H, T, D], the last q of T -> [B, q, Hq, D].

    Raises:
        ValueError: a sliding window hides a part of it.
    """
    if window is not None and key.shape[2] > window:
        raise ValueError(
            f"sliding_window={window}: shorter than the {key.shape[2]} tokens so far, and flash_attention_2 "
            "is used for full attention only. Set model.attention=sdpa."
        )
    run = load_flash_attention()
    query, key, value = (one.transpose(1, 2) for one in (query, key, value))
    return run(query, key, value, softmax_scale=scaling, causal=True)
