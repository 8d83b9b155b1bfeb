"""What a measurement tells: one flat object of known keys; what could not be measured is null."""

import gc
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch

from sparsemm.engine.memory import is_out_of_memory
from sparsemm.methods.base import Method

Result = dict[str, Any]
Found = TypeVar("Found")
TRANSFORMERS = "transformers"  # way: DynamicCache with PyTorch's attention
OURS = "ragged"

_CELL = ("method", "budget")
_PROMPT = ("prompt_tokens", "image_tokens")
COLUMNS = {  # of every measure, in the order of bench.csv
    "decode": (
        *("way", *_CELL, "decode", "backend", *_PROMPT, "rows", "new_tokens"),
        *("ms_per_token", "rounds_ms", "tokens_per_s", "speedup", "against_transformers"),
        *("limit_ms", "limit_share", "weight_limit_share", "entry_bytes", "slot_bytes"),
    ),
    "memory": (
        *("way", *_CELL, *_PROMPT, "rows", "new_tokens", "peak_bytes", "weights_bytes", "cache_bytes"),
        *("activation_bytes", "less_than_full"),
    ),
    "prefill": (
        *(*_CELL, *_PROMPT, "backend", "prefill_ms", "vision_ms", "with_method_ms", "select_ms", "share"),
        *("rounds_ms", "select_rounds_ms"),
    ),
    "grid": ("cells", *_PROMPT, "new_tokens", "rows", "ratio", "grid_ms", "full_ms", "rounds_ms"),
    "kernel": (
        *("way", "budget", "rows", "us", "rounds_us", "read_bytes", "gb_per_s", "copy_share"),
        *("speedup_against_published", "eager_us", "note"),
    ),
}


def result(measure: str, shape: str, **known: Any) -> Result:
    """An object of a measure, null where nothing is known; `error` says why that is so."""
    blank = dict.fromkeys(COLUMNS[measure])
    return {"measure": measure, "shape": shape, **blank, **known}


def budget_of(method: Method) -> int | None:
    """Entries per KV head; None where everything is kept."""
    return method.budget if isinstance(method.budget, int) else None


def attempt(work: Callable[[], Found]) -> tuple[Found | None, str | None]:
    """What `work` returns, or why it failed; then its tensors are gone.

    Raises:
        ValueError: what cannot be asked for.
        RuntimeError: the GPU is in an error state, in which nothing can be measured any more.
    """
    try:
        return work(), None
    except Exception as error:
        memory = is_out_of_memory(error)
        if isinstance(error, ValueError) or (not memory and _gpu_is_broken(error)):
            raise
        if not memory:
            traceback.print_exception(error)
        reason = " ".join(str(error).split())
        told = f"out of memory: {reason}" if memory else f"{type(error).__name__}: {reason}"
        failed: BaseException | None = error
        while failed is not None:
            traceback.clear_frames(failed.__traceback__)
            failed = failed.__cause__ or failed.__context__
    gc.collect()
    free()
    return None, told


def _gpu_is_broken(error: Exception) -> bool:
    """Whether every later call fails as well; what cannot be captured is an error of CUDA, but no more."""
    if "CUDA error" not in str(error):
        return False
    try:
        torch.cuda.synchronize()
    except Exception:
        return True
    return False


def free() -> None:
    """Give the GPU's memory back that nobody holds any more; a CPU's needs no search, which takes a while."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def in_turn(ways: Sequence[Found], rounds: int) -> Iterator[tuple[int, Found]]:
    """Every way once in each round, forwards and backwards in turn; round 0 warms up and is not counted."""
    for number in range(rounds + 1):
        for way in ways if number % 2 else reversed(ways):
            yield number, way


def wait(device: torch.device) -> None:
    """Until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
