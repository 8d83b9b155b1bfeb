"""What a cache needs, for the error of one that does not fit; which errors say that memory was short."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsemm.cache import RaggedCache
from sparsemm.kernels.ragged_attention import class_capacity
from sparsemm.models.base import LoadedModel

GB = 1e9
# In the words of PyTorch, of the driver through PyTorch or Triton, of libraries, of this machine. What Triton
# calls out of resource is a kernel too large for the GPU, which fewer rows do not help.
WORDS = ("out of memory", "OUT_OF_MEMORY", "ALLOC_FAILED", "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was short, of a GPU or of this machine: less at once may help."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in WORDS)


def slot_bytes(head_dim: int, itemsize: int) -> int:
    """Bytes of a slot: key, value, the index of its token, and its bias."""
    return (2 * head_dim + 1) * itemsize + 8


def arena_slots(lengths: Tensor, room: int) -> tuple[int, int]:
    """Slots in use, and slots for answers and padding, of segments of lengths [..., H]."""
    used = int(lengths.sum())
    return used, sum(class_capacity(length + room) for length in lengths.flatten().tolist()) - used


def free_bytes(device: torch.device) -> int | None:
    """What the device can still give, what PyTorch holds unused included; None on a CPU."""
    if device.type != "cuda":
        return None
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + int(held)


def does_not_fit(
    error: torch.OutOfMemoryError,
    loaded: LoadedModel,
    caches: Sequence[RaggedCache],
    rows: tuple[int, int],
    room: int,
) -> torch.OutOfMemoryError:
    """The error of a cache that could not be laid out: what it needs, and what would fit.

    Args:
        error: as PyTorch raised it.
        loaded: the model.
        caches: prefilled prompts.
        rows: which of their rows were laid out.
        room: tokens of an answer.
    """
    lengths = torch.cat([cache.kept_lengths.cpu() for cache in caches], dim=1)  # [L, all rows, H]
    slot = slot_bytes(loaded.shape.head_dim, loaded.model.dtype.itemsize)
    kept, spare = (slot * count / GB for count in arena_slots(lengths[:, rows[0] : rows[1]], room))
    aside = slot * int(lengths.sum()) / GB
    weights = sum(one.numel() * one.element_size() for one in loaded.model.parameters()) / GB
    count = rows[1] - rows[0]
    told = (
        f"out of memory laying out the cache of {count} rows: {kept:.3g} GB of kept entries and "
        f"{spare:.3g} GB of room for answers of {room} tokens, beside {aside:.3g} GB of entries held from "
        f"the prompts and {weights:.3g} GB of weights."
    )
    free = free_bytes(loaded.device)
    if free is not None:
        share = min(1.0, free / GB / (kept + spare))
        told += (
            f" {free / GB:.3g} GB are free, enough for about {int(count * share)} rows or {share:.0%} of the "
            "budget."
        )
    return torch.OutOfMemoryError(
        f"{told} Lower budget, engine.rows or engine.batch_prompts, or use shorter prompts. ({error})"
    )
