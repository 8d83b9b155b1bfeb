"""How methods and metrics are called in tables and figures."""

from __future__ import annotations

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
METRICS = {"anls": "ANLS", "cider": "CIDEr"}


def metric_name(metric: str) -> str:
    """Return the metric as prose writes it."""
    return METRICS.get(metric, metric.replace("_", " "))
