"""What a measurement tells: one flat object of known keys; what could not be measured is null."""

import gc
from collections.abc import Callable, Iterator, Sequence
from traceback import clear_frames
from typing import Any, TypeVar

import torch

from sparsemm.methods.base import Method

Result = dict[str, Any]
Found = TypeVar("Found")

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
    """What `work` returns, or why there was no memory for it; then its tensors are gone."""
    try:
        return work(), None
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        reason = " ".join(str(error).split())
        failed: BaseException | None = error
        while failed is not None:
            clear_frames(failed.__traceback__)
            failed = failed.__cause__ or failed.__context__
    gc.collect()
    free()
    return None, f"out of memory: {reason}"


def out_of_memory(error: BaseException) -> bool:
    """Whether memory was short, of a GPU or of this machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    told = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(one in str(error) for one in told)


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
