"""Made-up results, as a worker would write them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsemm.results.paper import SETTINGS
from sparsemm.results.statistics import summarise

Maker = Callable[..., dict[str, Any]]


def label(method: str, budget: int | str | None, **changes: Any) -> dict[str, Any]:
    full = method == "full"
    return {
        "model": "tiny",
        "task": "documents",
        "method": method,
        "scorer": None if full else "window_attention",
        "allocator": None if full else method,
        "budget": budget,
        "rho": 0.1 if method in ("sparsemm", "random") else None,
        "seed": 0 if method == "random" else None,
        "rounding": None if full else "exact",
        "window": None if full else 4,
        **changes,
    }


def result(
    method: str, budget: int | str | None, right: float, *, entries: float | None = None, **changes: Any
) -> dict[str, Any]:
    """A result whose share `right` of 40 documents (the same easy ones first) is answered."""
    names = label(method, budget)
    names |= {key: changes.pop(key) for key in list(changes) if key in names}
    chance = np.random.default_rng(0).permutation(40) / 40
    kept = entries if entries is not None else float(budget) if isinstance(budget, int) else 100.0
    records = [
        {"sample": f"d{d:02d}/{q}", "document": f"d{d:02d}", "index": 2 * d + q, "error": None}
        | {"score": float(chance[d] < right), "kept_entries": int(kept * 8), "kept_bytes": int(kept * 1024)}
        for d in range(40)
        for q in range(2)
    ]
    return {
        "format": 1,
        "fingerprint": hashlib.sha256(f"{names} {changes}".encode()).hexdigest()[:20],
        "label": names,
        "identity": {"task": {"name": names["task"], "limit": 40}},
        "metric": "anls",
        **summarise(records),
        "kept_share": min(1.0, kept / 100),
        "entries_per_head": kept,
        "provenance": {"device": "cpu", "dtype": "float32"},
        **changes,
    }


@pytest.fixture
def make() -> Maker:
    return result


@pytest.fixture
def make_label() -> Maker:
    return label


@pytest.fixture
def grid() -> list[dict[str, Any]]:
    """See `made_grid`; a test may change it."""
    return made_grid()


def made_grid() -> list[dict[str, Any]]:
    """The full cache, three methods and five random seeds, at three budgets."""
    make = result
    found = [make("full", None, 0.95, entries=100.0)]
    for budget, (best, second, third) in {
        8: (0.8, 0.75, 0.2),
        64: (0.9, 0.9, 0.5),
        128: (0.95, 0.95, 0.95),
    }.items():
        kept = {"entries": float(min(budget, 100))}
        found += [make("sparsemm", budget, best, **kept), make("snapkv", budget, second, **kept)]
        found += [make("pyramidkv", budget, third, **kept)]
        found += [make("random", budget, third + seed / 50, seed=seed, **kept) for seed in range(5)]
    return found


def paper_label(model: str, task: str, method: str, budget: int | None, **changes: Any) -> dict[str, Any]:
    """The label of a cell that is set up as the paper's."""
    scorer, allocator = SETTINGS[method]
    names = {"model": model, "task": task, "scorer": scorer, "allocator": allocator}
    names |= {"rounding": None if method == "full" else "paper", "window": None if method == "full" else 32}
    return label(method, budget) | names | changes


def paper_result(
    model: str, task: str, method: str, budget: int | None, score: float, **changes: Any
) -> dict[str, Any]:
    """A finished cell of the whole benchmark under the paper's protocol; 200 documents of two questions."""
    names = paper_label(model, task, method, budget)
    names |= {key: changes.pop(key) for key in list(changes) if key in names}
    most = 2.0 if task == "textcaps" else 1.0
    order = np.random.default_rng(0).permutation(200) / 200
    records = [
        {"sample": f"d{d:03d}/{q}", "document": f"d{d:03d}", "index": 2 * d + q, "error": None}
        | {"score": most * float(order[d] < score / most), "kept_entries": 8, "kept_bytes": 1024}
        for d in range(200)
        for q in range(2)
    ]
    kept = float(budget or 2400)
    return {
        "format": 1,
        "fingerprint": hashlib.sha256(f"{names} {changes}".encode()).hexdigest()[:20],
        "label": names,
        "identity": {},
        "metric": METRICS[task.partition(" ")[0]],
        **summarise(records),
        "kept_share": kept / 2400,
        "entries_per_head": kept,
        "provenance": {"device": "cpu", "dtype": "float32"},
        "whole": True,
        "published": True,
        "head_data": PAPERS_HEADS if names["allocator"] == "visual_heads" else None,
        **changes,
    }


PAPERS_HEADS = "imported from visual_head.json, sha256 0123456789abcdef"
METRICS = {"docvqa": "anls", "textcaps": "cider", "chartqa": "relaxed_accuracy"}
METRICS |= dict.fromkeys(("ocrbench", "textvqa", "mmbench", "gqa", "vqav2"), "accuracy")


@pytest.fixture
def cell() -> Maker:
    return paper_result


@pytest.fixture
def cell_label() -> Maker:
    return paper_label


def bench_file(
    shape: str,
    prompts: tuple[int, ...],
    *,
    gpu: bool = False,
    decodes: tuple[str, ...] = ("eager", "graph", "compiled"),
    budget: int = 256,
    full_ms: float = 10.0,
    ms: float = 5.0,
    full_gb: float = 30.0,
    gb: float = 20.0,
    device: str = "",
    when: str = "2026-01-02T03:04:05+00:00",
    backend: str = "triton",
) -> dict[str, Any]:
    """A bench.json as `sparsemm bench` writes it: the full cache and SparseMM, speed and memory."""
    machine = {"device": device or ("NVIDIA H200" if gpu else "a processor"), "gpu": gpu, "threads": 2}
    machine |= {"cuda": "13.0", "driver": "570", "clocks_mhz": {"sm": 1980, "memory": 2619}} if gpu else {}
    machine |= {"torch": "2.13.0", "when": when, "copy_gb_per_s": 4300.0}
    results: list[dict[str, Any]] = []
    for prompt in prompts:
        for method, kept, token_ms, peak in (("full", None, full_ms, full_gb), ("sparsemm", budget, ms, gb)):
            same = {"shape": shape, "way": "ragged", "method": method, "budget": kept, "rows": 1}
            same |= {"prompt_tokens": prompt, "image_tokens": prompt - 64, "new_tokens": 100}
            results += [
                {"measure": "decode", **same, "decode": decode, "ms_per_token": token_ms, "backend": backend}
                | {"rounds_ms": [token_ms], "tokens_per_s": 1000 / token_ms}
                for decode in decodes
            ]
            results.append({"measure": "memory", **same, "peak_bytes": int(1e9 * peak)})
    return {"format": 1, "settings": {"dtype": "bfloat16"}, "machine": machine, "results": results}


@pytest.fixture
def bench() -> Maker:
    return bench_file


FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@contextmanager
def opened_page(page: Path, width: int = 1280, dark: bool = False) -> Iterator[Any]:
    """The page from its file, in a window of this width; what the console says fails the test."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS, f"--window-size={width},900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        if dark:
            scheme = [{"name": "prefers-color-scheme", "value": "dark"}]
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        browser.get(page.as_uri())
        yield browser
        assert browser.get_log("browser") == []
    finally:
        browser.quit()


@pytest.fixture
def opened() -> Callable[..., Any]:
    """Opens a page in headless Chromium."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("needs Chromium and its driver: apt install chromium chromium-driver")
    return opened_page
