"""Where answers are computed, and whether they can be computed there."""

import torch

from sparsemm.config import Settings, build
from sparsemm.engine.checks import check_engine


def find_device(name: str) -> torch.device:
    """The device that was asked for; `auto` is the GPU where there is one.

    Raises:
        ValueError: cuda is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"engine.device={name}: PyTorch sees no GPU here. "
            "Set engine.device=cpu, or install a CUDA build of PyTorch."
        )
    return torch.device(name)


def check_here(model: Settings, engine: Settings) -> None:
    """Raise ValueError for settings that this machine cannot compute; no weights are read."""
    device, dtype = find_device(str(engine["device"])), getattr(torch, str(model["dtype"]))
    check_engine(
        device,
        dtype,
        build(model).shape().head_dim,
        str(model["attention"]),
        str(engine["cache_backend"]),
        str(engine["decode"]),
    )
