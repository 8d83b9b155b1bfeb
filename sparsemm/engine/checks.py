"""What can be known of a machine before a model is loaded."""

import torch

from sparsemm.engine.flash import check_flash_attention
from sparsemm.engine.graph import check_decode
from sparsemm.kernels.backends import resolve


def check_engine(
    device: torch.device, dtype: torch.dtype, head_dim: int, attention: str, backend: str, decode: str
) -> None:
    """Raise ValueError for what this machine cannot compute.

    Args:
        device: of the model.
        dtype: of the model.
        head_dim: of the model.
        attention: that reads prompts (model.attention).
        backend: who computes the cache's operations (engine.cache_backend).
        decode: engine.decode.
    """
    if attention == "flash_attention_2":
        check_flash_attention(device, dtype)
    check_decode(decode, device)
    resolve(backend, device, dtype, head_dim)
