"""How methods and metrics are called in tables and figures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

NAMES = {  # in the order of a table's rows
    "full": "Full cache",
    "streamingllm": "StreamingLLM",
    "snapkv": "SnapKV",
    "pyramidkv": "PyramidKV",
    "adakv": "AdaKV",
    "headkv": "HeadKV",
    "sparsemm": "SparseMM",
    "permuted": "Permuted heads",
    "random": "Random",
    "window": "Window",
}
SEEDED = ("permuted", "random")  # methods that draw: their rows say how many seeds
COLUMNS = {"mask_share": "share of the heads masked"}  # what a column is, where its key does not say it
_VARIANTS = {"mask": "{} masked", "mask_zero": "{} zeroed"}  # keys that no cell without a mask has
METRICS = {"anls": "ANLS", "cider": "CIDEr"}


def column_name(key: str) -> str:
    """Return what the columns are, as prose writes it."""
    return COLUMNS.get(key, key)


def variant_texts(variant: Iterable[tuple[str, Any]]) -> list[str]:
    """Return what tells a row apart: `rho 0.1`, `visual heads masked`."""
    return [
        _VARIANTS.get(key, f"{key} {{}}").format(value)
        for key, value in variant
        if value is not None or key not in _VARIANTS
    ]


def metric_name(metric: str) -> str:
    """Return the metric as prose writes it."""
    return METRICS.get(metric, metric.replace("_", " "))
