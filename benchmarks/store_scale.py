"""How long a grid of many finished cells takes to compose, read, list and report. Prints the figures.

nice python benchmarks/store_scale.py [--cells 10000] [--documents 250] [--folder /tmp/store] [model.path=...]
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from sparsemm.cli import register
from sparsemm.results.leases import running
from sparsemm.results.report import write_report
from sparsemm.results.statistics import interval
from sparsemm.results.store import Store
from sparsemm.sweep.compose import Composer
from sparsemm.sweep.grid import make_grid
from sparsemm.sweep.status import read_status, render

METHODS = {"full": 0.0, "snapkv": 0.2, "pyramidkv": 0.22, "adakv": 0.15, "sparsemm": 0.1, "random": 0.4}
BUDGETS = (8, 16, 32, 64, 128, 256)
PROMPT = 320


def grid(cells: int) -> Iterator[dict[str, Any]]:
    """Labels of quickstart-like grids (51 cells with five random seeds each), model by model."""
    made = 0
    for number in range(cells):
        for method, budget, seed in product(METHODS, BUDGETS, range(5)):
            if (method == "full" and budget != BUDGETS[0]) or (method != "random" and seed):
                continue
            yield label(f"model{number:03d}", "documents", method, budget, seed)
            made += 1
            if made == cells:
                return


def label(model: str, task: str, method: str, budget: int | str, seed: int = 0) -> dict[str, Any]:
    full, random = method == "full", method == "random"
    return {
        "model": model,
        "task": task,
        "method": method,
        "scorer": None if full else "window_attention",
        "allocator": None if full else {"snapkv": "uniform", "sparsemm": "visual_heads"}.get(method, method),
        "budget": None if full else budget,
        "rho": 0.1 if method in ("sparsemm", "random") else None,
        "seed": seed if random else None,
        "rounding": None if full else "exact",
        "window": None if full else 4,
    }


def result(cell: dict[str, Any], documents: int = 100, **changes: Any) -> dict[str, Any]:
    """A result.json as a worker writes it, with made-up scores; two questions per document."""
    rng = np.random.default_rng(7)  # the same documents are hard for every method
    hard, noise = rng.random(documents), np.random.default_rng(zlib.crc32(str(cell).encode()))
    budget = PROMPT if cell["budget"] is None else cell["budget"]
    entries = min(budget if isinstance(budget, int) else PROMPT * float(budget[:-1]) / 100, PROMPT)
    chance = 0.97 - METHODS.get(cell["method"], 0.3) * (1 - entries / PROMPT) * 8 / entries**0.5
    scores = ((hard + noise.normal(0, 0.15, (2, documents))) < chance).mean(0)
    low, high = interval(scores, np.full(documents, 2.0))
    return {
        "format": 1,
        "fingerprint": fingerprint(cell, **changes),
        "label": cell,
        "identity": {"task": {"name": cell["task"], "limit": documents}, "method": {"name": cell["method"]}},
        "metric": "anls",
        "score": float(scores.mean()),
        "low": low,
        "high": high,
        "samples": 2 * documents,
        "failed": 0,
        "failures": [],
        "documents": {"ids_sha": f"sha{documents}", "scores": scores.tolist(), "counts": [2] * documents},
        "kept_entries": entries * 32,
        "kept_share": entries / PROMPT,
        "full_entries": PROMPT * 32.0,
        "entries_per_head": float(entries),
        "kept_bytes": entries * 32 * 2 * 16 * 4.0,
        "group": {"wall_s": 20.0, "peak_memory_bytes": 10**9, "rows": 31, "cells": 31, "samples_timed": 200},
        "provenance": {"git_commit": "0" * 40, "git_dirty": False, "device": "cpu", "dtype": "float32"},
        **changes,
    }


def made_up(labels: list[dict[str, Any]], documents: int) -> Iterator[dict[str, Any]]:
    """Results for the labels; models share their scores, as drawing new ones takes longest."""
    drawn: dict[str, dict[str, Any]] = {}
    for cell in labels:
        like = {**cell, "model": ""}
        if str(like) not in drawn:
            drawn[str(like)] = result(like, documents)
        yield {**drawn[str(like)], "label": cell, "fingerprint": fingerprint(cell)}


def fingerprint(cell: dict[str, Any], **changes: Any) -> str:
    text = str(sorted(cell.items(), key=str)) + str(sorted(changes.items(), key=str))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def timed(what: str, call: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    answer = call()
    print(f"{what:<58}{time.perf_counter() - start:8.2f} s", flush=True)
    return answer


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--cells", type=int, default=10_000)
    arguments.add_argument("--documents", type=int, default=250)
    arguments.add_argument("--folder", type=Path, default=None)
    arguments.add_argument("overrides", nargs="*", help="of the grid that is composed")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        store = Store(options.folder or Path(temporary))
        labels = list(grid(options.cells))
        pending = [f"{number:020x}" for number in range(options.cells)]

        def write() -> list[str]:
            made = list(made_up(labels, options.documents))
            for one in made:
                store.cell(one["fingerprint"]).write_result(one)
            return [one["fingerprint"] for one in made]

        names = timed(f"make {options.cells} results (not part of any verb)", write)
        results = timed("Store.results(fingerprints)", lambda: store.results(names))
        assert len(results) == options.cells
        timed("Store.results() of the whole store", store.results)
        by_name = dict(zip(names, labels, strict=True))
        timed("status: read_status and render", lambda: render("scale", by_name, read_status(store, by_name)))
        waiting = dict(zip(pending, labels, strict=True))
        timed("status of as many pending cells", lambda: render("s", waiting, read_status(store, waiting)))
        timed("Store.finished, .failures and running: cells done", lambda: listing(store, names))
        timed("Store.finished, .failures and running: cells pending", lambda: listing(store, pending))
        text = timed(
            "write_report: tables, tests, four formats, figure",
            lambda: write_report("scale", results, labels, store.reports / "scale"),
        )
        print(f"{len(text)} characters of text")
        compose(max(1, options.cells // 1000), options.overrides)


def compose(budgets: int, overrides: list[str]) -> None:
    """What status and report pay before they read: the grid, composed, checked and fingerprinted."""
    register()
    with initialize_config_module("sparsemm.conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        composer = Composer(loader, loader.load_configuration("run", [], RunMode.MULTIRUN))
        make_grid(composer, overrides)  # the imports, once
        points = [
            "method=snapkv,pyramidkv,adakv,sparsemm,random", "task=documents,reading", "rounding=exact,paper",
            f"budget=range(40,{40 + budgets})", "task.limit=range(1,51)", *overrides,
        ]  # fmt: skip
        cells = timed("compose the grid", lambda: make_grid(composer, points)).cells
        print(f"{len(cells)} cells composed")


def listing(store: Store, names: list[str]) -> None:
    done = store.finished(names)
    store.failures(names)
    running(store, [name for name in names if name not in done])


if __name__ == "__main__":
    main()
