"""What `sparsemm bench` measured, by place, beside what the paper prints: ms per token and peak memory.

Every number comes from a bench.json; the same place measured again with the same backend replaces the older
one, and of several backends the fastest counts.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from sparsemm.paths import resolve
from sparsemm.results.files import read_json
from sparsemm.results.names import NAMES
from sparsemm.results.paper import FOLDER

FORMAT = 1  # of bench.json
OURS = "ragged"  # our cache; `transformers` is its own cache, `published` the way of the paper's code
DECODES = ("eager", "graph", "compiled")
MEASURES = {  # of figure 6: the value in a result, how much of it makes a unit, the unit
    "decode": ("ms_per_token", 1.0, "ms/token"),
    "memory": ("peak_bytes", 1e9, "peak GB"),
}
PAPER_FILES = {
    "decode": ("figure6_efficiency.csv", "decode_ms_per_token"),
    "memory": ("figure6_efficiency.csv", "peak_memory_gb"),
}
PAPER_16K = ("table_efficiency_16k.csv", "decode_ms_per_token")
Bench = Mapping[str, Any]  # the content of a bench.json


@dataclass(frozen=True, kw_only=True)
class BenchClaim:
    """What an experiment says of speed and memory; its grid is one of the benchmark, not of cells."""

    title: str
    sentence: str
    methods: tuple[str, ...]  # of the curves


class Way(NamedTuple):
    """A way to decode one sequence, as a curve."""

    way: str  # ragged | transformers | published
    method: str
    budget: int | None  # None: everything is kept
    decode: str | None  # eager | graph | compiled; None: of memory

    @property
    def name(self) -> str:
        """Return the way as prose writes it: `SparseMM, budget 256, graph`."""
        method = NAMES.get(self.method, self.method)
        words = [method] if self.way == OURS else [f"{method}, {_WAYS.get(self.way, self.way)}"]
        words += [f"budget {self.budget}"] if self.budget is not None else []
        return ", ".join([*words, *([self.decode] if self.decode else [])])


_WAYS = {"transformers": "transformers", "published": "as published"}


class Place(NamedTuple):
    """What was measured."""

    measure: str  # of `MEASURES`
    shape: str  # a model's name, as in conf/model
    way: Way
    prompt_tokens: int


@dataclass(frozen=True)
class Measured:
    """A number of a bench.json."""

    value: float  # in the unit of its measure
    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    backend: str | None = None  # who computed the cache; None: of memory

    @property
    def gpu(self) -> bool:
        """Say whether it was measured on a GPU."""
        return bool(self.machine.get("gpu"))


def read(files: Iterable[Path]) -> list[Bench]:
    """Return what the files hold, oldest first.

    Raises:
        ValueError: a file that is not a bench.json of this format.
    """
    found = []
    for file in files:
        bench = read_json(file)
        if bench is None or bench.get("format") != FORMAT:
            format_ = None if bench is None else bench.get("format")
            raise ValueError(
                f"{file}: format={format_}: must be {FORMAT}, as `sparsemm bench` writes it. Measure again."
            )
        found.append(bench)
    return sorted(found, key=when)


def in_store(root: Path, shapes: Iterable[str]) -> list[Bench]:
    """Return the files in <root>/bench with any of these shapes; smoke runs, other formats do not count."""
    wanted = set(shapes)
    contents = [read_json(file) for file in sorted((root / "bench").rglob("bench.json"))]
    return sorted(
        (
            one
            for one in contents
            if one and one.get("format") == FORMAT and not one["settings"].get("smoke")
            if wanted & {each["shape"] for each in one["results"]}
        ),
        key=when,
    )


def when(bench: Bench) -> str:
    """Return when it was measured, as text that sorts."""
    return str(bench["machine"].get("when", ""))


def places(benches: Sequence[Bench]) -> dict[Place, Measured]:
    """Return what was measured of one sequence: of a backend the newest, of backends the fastest."""
    newest: dict[tuple[Place, str | None], Measured] = {}
    for bench in sorted(benches, key=when):
        for one in bench["results"]:
            known = MEASURES.get(one["measure"])
            if known is None or one.get("rows", 1) != 1 or one.get(known[0]) is None:
                continue
            key, factor, _ = known
            way = Way(one["way"], one["method"], one.get("budget"), one.get("decode"))
            if one["measure"] == "memory":
                way = way._replace(decode=None)
            place, backend = (
                Place(one["measure"], one["shape"], way, int(one["prompt_tokens"])),
                one.get("backend"),
            )
            measured = Measured(one[key] / factor, bench["machine"], bench["settings"], backend)
            newest[place, backend] = measured
    found: dict[Place, Measured] = {}
    for (place, _), measured in newest.items():
        if place not in found or measured.value < found[place].value:
            found[place] = measured
    return found


def curves(found: Mapping[Place, Measured], measure: str, shape: str) -> dict[Way, dict[int, float]]:
    """Return value by prompt length for every way of a measure and shape, methods in the order of tables."""
    lines: dict[Way, dict[int, float]] = {}
    for place, measured in found.items():
        if (place.measure, place.shape) == (measure, shape):
            lines.setdefault(place.way, {})[place.prompt_tokens] = measured.value
    return {way: dict(sorted(lines[way].items())) for way in sorted(lines, key=_order)}


def _order(way: Way) -> tuple[Any, ...]:
    methods, decodes = list(NAMES), list(DECODES)
    return (
        way.way != OURS,
        methods.index(way.method) if way.method in methods else len(methods),
        way.budget or 0,
        decodes.index(way.decode) if way.decode in decodes else -1,
        str(way),
    )


@cache
def paper_shapes() -> tuple[str, ...]:
    """Return the paper's models, in the order of its figure."""
    return tuple(dict.fromkeys(row["model"] for row in _rows(PAPER_FILES["decode"][0])))


@cache
def paper_curve(measure: str, shape: str, method: str) -> Mapping[int, float]:
    """Return the paper's value by prompt length; empty where it has none."""
    file, column = PAPER_FILES[measure]
    rows = [row for row in _rows(file) if (row["model"], row["method"]) == (shape, method)]
    return {int(row["input_tokens"]): float(row[column]) for row in rows}


@cache
def paper_budget() -> int:
    """Return the budget of the paper's figure and table."""
    (budget,) = {int(row["budget"]) for row in _rows(PAPER_FILES["decode"][0]) if row["budget"]}
    return budget


@cache
def paper_16k() -> tuple[str, int, Mapping[str, float]]:
    """Return model, prompt length, and ms per token by method, of the paper's table of five methods."""
    file, column = PAPER_16K
    rows = list(_rows(file))
    ((model, tokens),) = {(row["model"], int(row["input_tokens"])) for row in rows}
    return model, tokens, {row["method"]: float(row[column]) for row in rows}


def _rows(file: str) -> list[dict[str, str]]:
    with (resolve(FOLDER) / file).open(newline="") as lines:
        return list(csv.DictReader(lines))


def machine_text(machine: Mapping[str, Any]) -> str:
    """Return a machine on one line, with versions and clocks where they are known."""
    gpu = bool(machine.get("gpu"))
    words = [str(machine.get("device", "?"))]
    words += [f"CUDA {machine['cuda']}"] if gpu and machine.get("cuda") else []
    words += [f"driver {machine['driver']}"] if gpu and machine.get("driver") else []
    clocks = machine.get("clocks_mhz") or {}
    words += [f"{name} {clocks[name]} MHz" for name in ("sm", "memory") if clocks.get(name)]
    words += [] if gpu else [f"{machine.get('threads', '?')} thread{'s' * (machine.get('threads') != 1)}"]
    if machine.get("copy_gb_per_s"):
        words.append(f"copies {machine['copy_gb_per_s']:.4g} GB/s")
    words += [f"{name} {machine[name]}" for name in ("torch", "transformers", "triton") if machine.get(name)]
    words += [f"sparsemm {machine['sparsemm']}"] if machine.get("sparsemm") else []
    words += [str(machine["when"])[:10]] if machine.get("when") else []
    return ", ".join(words)
