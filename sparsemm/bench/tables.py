"""Results as lines of a table, printed as they come."""

from collections.abc import Callable
from typing import Any

from sparsemm.bench.results import Result

Cell = Callable[[Any], str]
WIDTH = 34  # of the name


def _number(digits: int = 4, factor: float = 1.0) -> Cell:
    return lambda value: f"{value / factor:.{digits}g}"


def _ms(value: float) -> str:
    return f"{value:.2f}"


def _times(value: float) -> str:
    return f"{value:.2f}x"


def _percent(value: float) -> str:
    return f"{value:.1%}"


GB, MB = 1e9, 1e6
TABLES: dict[str, dict[str, tuple[str, Cell]]] = {  # measure: title -> key and how it is written
    "decode": {
        "ms/token": ("ms_per_token", _ms),
        "tokens/s": ("tokens_per_s", _number()),
        "speed-up": ("speedup", _times),
        "of limit": ("limit_share", _percent),
        "cache MB": ("entry_bytes", _number(factor=MB)),
    },
    "memory": {
        "peak GB": ("peak_bytes", _number(factor=GB)),
        "weights": ("weights_bytes", _number(factor=GB)),
        "cache": ("cache_bytes", _number(factor=GB)),
        "the rest": ("activation_bytes", _number(factor=GB)),
        "less": ("less_than_full", _percent),
    },
    "prefill": {
        "prefill ms": ("prefill_ms", _ms),
        "images ms": ("vision_ms", _ms),
        "with method": ("with_method_ms", _ms),
        "select ms": ("select_ms", _ms),
        "share": ("share", _percent),
    },
    "grid": {
        "cells": ("cells", str),
        "rows": ("rows", str),
        "grid ms": ("grid_ms", _ms),
        "full ms": ("full_ms", _ms),
        "ratio": ("ratio", _times),
    },
    "kernel": {
        "us/token": ("us", _ms),
        "GB/s": ("gb_per_s", _number()),
        "of copy": ("copy_share", _percent),
        "speed-up": ("speedup_against_published", _times),
    },
}


def header(found: Result) -> str:
    """What is measured, and the titles of its columns."""
    about = [found["measure"], found["shape"]]
    if found.get("prompt_tokens"):
        pages = f" ({found['image_tokens']} of images)" if found.get("image_tokens") else ""
        about.append(f"prompt of {found['prompt_tokens']} tokens{pages}")
    if found["measure"] == "kernel":
        about.append("one layer")
    titles = "".join(f"{title:>12}" for title in TABLES[found["measure"]])
    return f"\n{', '.join(about)}\n{'':<{WIDTH}}{titles}"


def line(found: Result) -> str:
    """One result; what could not be measured is a dash, with the reason at the end."""
    words = [str(found[key]) for key in ("way", "method") if found.get(key)]
    words += [f"budget={found['budget']}"] if found.get("budget") is not None else []
    words += [str(found["decode"])] if found.get("decode") else []
    words += [f"rows={found['rows']}"] if (found.get("rows") or 1) > 1 and found["measure"] != "grid" else []
    cells = "".join(
        f"{'-' if found.get(key) is None else write(found[key]):>12}"
        for key, write in TABLES[found["measure"]].values()
    )
    reason = f"  {found['error']}" if found.get("error") else ""
    return f"{' '.join(words):<{WIDTH}}{cells}{reason}"


def group(found: Result) -> tuple[Any, ...]:
    """Results with equal ones stand under one header."""
    return tuple(found.get(key) for key in ("measure", "shape", "prompt_tokens"))
