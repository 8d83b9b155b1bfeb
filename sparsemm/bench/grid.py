"""A whole grid of methods and budgets, decoded as rows of one cache, beside its full-cache cell alone."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sparsemm.bench.results import Result, attempt, in_turn, result, wait
from sparsemm.engine.generate import Engine
from sparsemm.methods.base import Method
from sparsemm.models.base import LoadedModel, Prompt


@dataclass(frozen=True)
class GridTimes:
    """Seconds of every counted round: of the full cache alone and of the grid; rows decoded per prompt."""

    full_s: tuple[float, ...]
    grid_s: tuple[float, ...]
    rows: int

    @property
    def ratio(self) -> float:
        """Median over rounds of the grid's time / the full cache's."""
        return statistics.median(grid / full for full, grid in zip(self.full_s, self.grid_s, strict=True))


def time_grid(
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    full: Method,
    methods: Sequence[Method],
    new_tokens: int,
    rounds: int,
    batch: int = 1,
    backend: str = "auto",
) -> GridTimes:
    """Answer the same prompts through the same engine with one cell and with all of them, in turn.

    Args:
        loaded: the model.
        prompts: answered in every round.
        full: the cell that keeps everything.
        methods: the grid's cells, `full` among them or not.
        new_tokens: longest answer.
        rounds: that are counted.
        batch: prompts that are decoded together.
        backend: who computes the cache's operations.
    """
    engines = [Engine(loaded, cells, new_tokens, backend=backend) for cells in ([full], list(methods))]
    times: tuple[list[float], list[float]] = ([], [])
    rows = [0, 0]
    for number, place in in_turn([0, 1], rounds):
        wait(loaded.device)
        began = time.perf_counter()
        for start in range(0, len(prompts), batch):
            rows[place] = engines[place].answer(prompts[start : start + batch])[0][0].rows
        wait(loaded.device)
        seconds = time.perf_counter() - began
        if number:
            times[place].append(seconds)
    return GridTimes(tuple(times[0]), tuple(times[1]), rows[1])


def measure(
    loaded: LoadedModel,
    prompt: Prompt,
    full: Method,
    methods: Sequence[Method],
    new_tokens: int,
    rounds: int,
    backend: str,
    told: dict[str, Any],
) -> Result:
    """One result for the whole grid; `full` is one of its cells whether it is named or not."""
    cells = [full, *(method for method in methods if method.budget is not None)]
    known: dict[str, Any] = {"cells": len(cells), "new_tokens": new_tokens}
    work = partial(time_grid, loaded, [prompt], full, cells, new_tokens, rounds, backend=backend)
    times, error = attempt(work)
    if times is None:
        return result("grid", **told, **known, error=error)
    known |= {"rows": times.rows, "ratio": times.ratio}
    known |= {"grid_ms": 1000 * statistics.median(times.grid_s)}
    known |= {"full_ms": 1000 * statistics.median(times.full_s)}
    return result("grid", **told, **known, rounds_ms=[1000 * one for one in times.grid_s])
