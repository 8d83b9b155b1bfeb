"""Speed and memory on the page, as plain values: charts against the prompt's length, and tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sparsemm.results.efficiency import (
    MEASURES,
    OURS,
    Bench,
    Way,
    curves,
    machine_text,
    paper_budget,
    paper_curve,
    paper_shapes,
    places,
)
from sparsemm.results.figures import STYLES
from sparsemm.results.figures_efficiency import OTHERS

DASHES = {"graph": [7, 4], "compiled": [8, 3, 2, 3]}
Curves = Mapping[Way, Mapping[int, float]]  # value by prompt length
METRICS = {"decode": "ms per token", "memory": "peak GB (1e9 bytes)"}


def efficiency_view(benches: Sequence[Bench], models: Collection[str]) -> dict[str, Any]:
    """Return {about, machines, charts, tables} of these models; `charts` is empty where nothing is known."""
    found = {place: one for place, one in places(benches).items() if place.shape in models}
    shapes = dict.fromkeys(place.shape for place in found)
    kinds = [(measure, shape) for shape in shapes for measure in MEASURES]
    lines = {kind: one for kind in kinds if (one := _shown(curves(found, *kind)))}
    about = (
        "One sequence, by the benchmark: the median of rounds. Cells share prefill and decoding, so none of "
        "this is measured on them."
    )
    if any(way.decode in DASHES for ways in lines.values() for way in ways):
        about += " Solid: eager; dashed: in a CUDA graph; dashes and dots: compiled."
    if any(one.settings.get("weights", "random") == "random" for one in found.values()):
        about += " Models of these shapes with random weights."
    if any(shape in paper_shapes() for shape in shapes):
        about += " The paper's points are those of its code on its hardware."
    return {
        "about": about,
        "machines": list(dict.fromkeys(machine_text(one.machine) for one in found.values())),
        "charts": [_chart(measure, shape, ways) for (measure, shape), ways in lines.items()],
        "tables": [_table(measure, shape, ways) for (measure, shape), ways in lines.items()],
    }


def _shown(ways: Curves) -> Curves:
    """All methods decoded our way; of other ways the full cache and SparseMM."""
    return {way: one for way, one in ways.items() if way.way == OURS or way.method in ("full", "sparsemm")}


def _chart(measure: str, shape: str, ways: Curves) -> dict[str, Any]:
    prompts = _prompts(ways)
    of_paper = _of_paper(ways)
    return {
        "task": shape,
        "owner": shape,
        "model": "",
        "metric": METRICS[measure],
        "digits": 2 if max(max(points.values()) for points in ways.values()) >= 1 else 4,
        "zero": True,
        "column_key": "prompt",
        "log": True,
        "x": prompts,
        "ticks": [_tokens(prompt) for prompt in prompts],
        "xlabel": "prompt, tokens (log scale)",
        "lines": [
            {
                "name": way.name,
                "chip": way._replace(decode=None).name,
                "toggle": f"speed: {way._replace(decode=None).name}",
                "color": _color(way),
                "constant": False,
                "dash": DASHES.get(way.decode or "", []),
                "y": [points.get(prompt) for prompt in prompts],
                "low": [None] * len(prompts),
                "high": [None] * len(prompts),
                "paper": _paper(measure, shape, way, prompts) if way in of_paper else None,
            }
            for way, points in ways.items()
        ],
    }


def _table(measure: str, shape: str, ways: Curves) -> dict[str, Any]:
    prompts = _prompts(ways)
    rows = []
    for way, points in ways.items():
        rows.append((way.name, [_number(points.get(prompt)) for prompt in prompts]))
        paper = _paper(measure, shape, way, prompts) if way in _of_paper(ways) else None
        if paper:
            rows.append((f"{way.name}: the paper", [_number(one) for one in paper]))
    return {
        "title": f"{METRICS[measure]}, {shape}",
        "model": shape,
        "prompts": [f"{prompt:,}" for prompt in prompts],
        "rows": rows,
    }


def _of_paper(ways: Mapping[Way, Any]) -> set[Way]:
    """The first of a method's ways, which the paper's points go with."""
    first: dict[str, Way] = {}
    for way in ways:
        if way.way == OURS and way.budget in (None, paper_budget()):
            first.setdefault(way.method, way)
    return set(first.values())


def _paper(measure: str, shape: str, way: Way, prompts: Sequence[int]) -> list[float | None] | None:
    points = paper_curve(measure, shape, way.method)
    found = [points.get(prompt) for prompt in prompts]
    return found if any(one is not None for one in found) else None


def _prompts(ways: Curves) -> list[int]:
    return sorted({prompt for points in ways.values() for prompt in points})


def _color(way: Way) -> str:
    return (
        STYLES.get(way.method, ("#882255", "")) if way.way == OURS else OTHERS.get(way.way, ("#7F7F7F",))
    )[0]


def _tokens(count: int) -> str:
    return f"{count // 1024}K" if count % 1024 == 0 else str(count)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value >= 1 else f"{value:.3g}"
