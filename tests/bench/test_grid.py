"""A grid is timed beside its full cell, on the same prompts."""

from types import SimpleNamespace

import pytest
import torch

from sparsemm.api import make_method
from sparsemm.bench import grid

from .conftest import TOLD


def test_the_ratio_is_of_the_same_rounds(tiny, prompt, methods, monkeypatch):
    looks = iter([0, 1, 2, 3, 10, 12, 20, 26, 30, 36, 40, 44])
    monkeypatch.setattr(grid, "time", SimpleNamespace(perf_counter=lambda: float(next(looks))))
    cells = [*methods, make_method("snapkv", "budget=60")]
    found = grid.measure(tiny, prompt, methods[0], cells, 2, 2, "auto", TOLD)
    assert (found["cells"], found["rows"], found["new_tokens"]) == (3, 3, 2)
    # round 1: full 2 s, then the grid 6 s; round 2: the grid 6 s, then full 4 s
    assert found["ratio"] == pytest.approx((6 / 2 + 6 / 4) / 2)
    assert (found["grid_ms"], found["full_ms"]) == (6000, 3000)


def test_no_memory_is_told(tiny, prompt, methods, monkeypatch):
    def short(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(grid, "time_grid", short)
    found = grid.measure(tiny, prompt, methods[0], methods, 2, 2, "auto", TOLD)
    assert found["ratio"] is None and found["error"] == "out of memory: CUDA out of memory."
