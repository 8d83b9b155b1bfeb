"""Where answers are computed."""

import torch


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
