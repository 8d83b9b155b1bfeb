"""The numbers that arXiv:2506.05344 reports, and later reruns of the same cells: data, on one scale.

Scores are fractions, as results store them; CIDEr is unbounded. sparsemm/data/paper/README.md says where
every file comes from and what is absent.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from sparsemm.paths import resolve

FOLDER = "pkg://sparsemm.data/paper"
FILES = {
    "table1": "table1_rho.csv",
    "table2": "table2_components.csv",
    "table3": "table3_main.csv",
    "table4": "table4_general.csv",
}
FULL_CACHE = {"table3": "figure4_full_cache.csv"}  # tables whose full-cache scores a figure shows
RERUN_TABLES = ("table3",)  # tables of which later work ran cells again
IN_PERCENT = ("table2", "table4")
RHO = 0.1  # of every table but Table 1; section 4.1
WINDOW = 32  # section 4.1
# What the paper's methods are, in a label's words: scorer, allocator. (Table 2's window is its budget.)
SETTINGS = {
    "full": (None, "keep_all"),
    "window": ("recent", "uniform"),
    "snapkv": ("window_attention", "uniform"),
    "pyramidkv": ("window_attention", "pyramid"),
    "adakv": ("window_attention", "adaptive"),
    "sparsemm": ("window_attention", "visual_heads"),
    "random": ("window_attention", "random_heads"),
}
LABEL = {"model", "task", "method", "scorer", "allocator", "budget", "rho", "seed", "rounding", "window"}
COMPONENTS = {"window": "window", "window+uniform": "snapkv", "window+uniform+score": "sparsemm"}


class Key(NamedTuple):
    """A cell of the paper."""

    benchmark: str
    model: str
    method: str
    budget: int | None  # None: the full cache
    rho: float | None  # only Table 1 varies it


@dataclass(frozen=True)
class Published:
    """A number of the paper."""

    score: float  # a fraction; CIDEr as it is
    digits: int  # after the point, in the paper's unit
    source: str  # "" for the table itself, else where it was read


def value(
    table: str,
    benchmark: str,
    model: str,
    method: str,
    budget: int | None = None,
    rho: float | None = None,
) -> float | None:
    """Return the paper's score; None where there is none.

    Raises:
        ValueError: there is no such table.
    """
    found = published(table, Key(benchmark, model, method, budget, rho))
    return None if found is None else found.score


def published(table: str, key: Key) -> Published | None:
    """Return the paper's number for a cell; None where there is none."""
    return _numbers(table).get(key)


def in_grid(table: str, key: Key) -> bool:
    """Say whether the table has a place for the cell, legible or not."""
    return all(part in parts for part, parts in zip(key, _axes(table, key.method), strict=True))


def is_of(table: str, benchmark: str, model: str) -> bool:
    """Say whether the table is about this benchmark and model."""
    return any(key[:2] == (benchmark, model) for key in _numbers(table))


def digits(table: str, benchmark: str) -> int:
    """Return how many digits after the point the table prints for a benchmark."""
    return max(
        found.digits
        for key, found in _numbers(table).items()
        if key.benchmark == benchmark and not found.source
    )


def reruns(table: str, key: Key) -> Mapping[str, float]:
    """Return what later work measured in the cell: source -> score."""
    return _reruns().get(key, {}) if table in RERUN_TABLES else {}


@cache
def rerun_sources() -> tuple[str, ...]:
    """Return the sources of reruns, in the order of the file."""
    return tuple(dict.fromkeys(row["source"] for row in _rows("reproductions.csv")))


def key_of(table: str, label: Mapping[str, Any]) -> Key | None:
    """Return the paper's cell that a label stands for; None when its method is set up differently.

    Of model and task the first word counts: what follows tells variants apart.
    """
    method = str(label["method"])
    if any(value is not None for name, value in label.items() if name not in LABEL):
        return None  # as where heads are masked
    if SETTINGS.get(method) != (label.get("scorer"), label.get("allocator")):
        return None
    budget, rho = label.get("budget"), label.get("rho")
    if method != "full" and (not str(budget).isdigit() or label.get("window") != WINDOW):
        return None
    if rho is not None and table != "table1" and float(rho) != RHO:
        return None
    return Key(
        str(label["task"]).partition(" ")[0],
        str(label["model"]).partition(" ")[0],
        method,
        None if budget is None else int(budget),
        float(rho) if rho is not None and table == "table1" else None,
    )


@cache
def _numbers(table: str) -> dict[Key, Published]:
    if table not in FILES:
        raise ValueError(f"paper={table}: must be one of {', '.join(FILES)}. Name the paper's table.")
    factor = 100 if table in IN_PERCENT else 1
    found = {}
    for file in (FILES[table], *([FULL_CACHE[table]] if table in FULL_CACHE else [])):
        for row in _rows(file):
            text = row["score"]
            found[_key(row)] = Published(
                round(float(text) / factor, 9), len(text.partition(".")[2]), _source(file)
            )
    return found


@cache
def _axes(table: str, method: str) -> tuple[set[Any], ...]:
    """The values that each part of a key has in the rows of a method."""
    keys = [key for key in _numbers(table) if (key.method == "full") == (method == "full")]
    return tuple({key[part] for key in keys} for part in range(len(Key._fields)))


@cache
def _reruns() -> dict[Key, dict[str, float]]:
    found: dict[Key, dict[str, float]] = {}
    for row in _rows("reproductions.csv"):
        found.setdefault(_key(row), {})[row["source"]] = float(row["score"])
    return found


def _key(row: Mapping[str, str]) -> Key:
    return Key(
        row["benchmark"],
        row["model"],
        COMPONENTS[row["components"]] if "components" in row else row["method"],
        int(row["budget"]) if row.get("budget") else None,
        float(row["rho"]) if "rho" in row else None,
    )


def _source(file: str) -> str:
    return file.partition("_")[0] if file in FULL_CACHE.values() else ""


def _rows(file: str) -> Iterator[dict[str, str]]:
    with (resolve(FOLDER) / file).open(newline="") as lines:
        yield from csv.DictReader(lines)
