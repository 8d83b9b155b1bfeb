"""The report as one HTML file that needs neither a server nor a network.

Text of models and data sets is escaped by the template, or set as text by the scripts; a content security
policy lets nothing else run and nothing be loaded.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sparsemm.paths import resolve
from sparsemm.results.efficiency import Bench
from sparsemm.results.entries import Result
from sparsemm.results.files import write_atomically
from sparsemm.results.page_efficiency import efficiency_view
from sparsemm.results.page_samples import Images, sample_views
from sparsemm.results.page_tables import colors_of, curve_view, table_view
from sparsemm.results.scales import scale_of
from sparsemm.results.store import Store
from sparsemm.results.tables import Table
from sparsemm.results.verdicts import Verdict

PAGE = "pkg://sparsemm.data/page"
VENDOR = "pkg://sparsemm.data/vendor"
LIBRARY = ("uPlot", "1.6.32")  # sparsemm/data/vendor/README.md
SCRIPTS = ("curves.js", "tables.js", "samples.js")


@dataclass(frozen=True)
class HeadMap:
    """A model's head scores as pictures for a light and a dark page."""

    model: str
    caption: str
    light: bytes  # PNG
    dark: bytes


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a page shows besides results: answers, images, head maps, speed and memory, how it was asked."""

    store: Store
    images: Images
    head_maps: Sequence[HeadMap] = ()
    benches: Sequence[Bench] = ()
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the page is made of."""

    title: str
    sentence: str
    tables: Sequence[Table]
    results: Sequence[Result]
    verdicts: Sequence[Verdict] = ()
    expected: int = 0  # cells
    missing_line: str = ""  # how many cells are expected and not there
    missing: Sequence[str] = ()  # each of them
    material: Material | None = None


def write_page(page: Page, path: Path) -> Path:
    """Write the page to `path`, whole or not at all."""
    write_atomically(path, to_html(page))
    return path


def to_html(page: Page) -> str:
    """Return the page's text."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    colors = colors_of(page.tables)
    several = len({table.model for table in page.tables}) > 1
    curves = [view for table in page.tables if (view := curve_view(table, colors, several))]
    samples: dict[str, Any] = {"tables": [], "about": ""}
    images: list[str] = []
    if page.material:
        samples, images = sample_views(page.tables, colors, page.material.store, page.material.images)
    scripts = [_text(f"{VENDOR}/uplot/uPlot.iife.min.js"), *(_text(f"{PAGE}/{name}") for name in SCRIPTS)]
    maps = page.material.head_maps if page.material else ()
    models = {str(result["label"]["model"]) for result in page.results}
    efficiency = efficiency_view(page.material.benches if page.material else (), models)
    views = [table_view(table, colors) for table in page.tables]
    present = {
        "curves": ("Curves", curves),
        "verdicts": ("Verdicts", page.verdicts),
        "tables": ("Tables", views),
        "efficiency": ("Speed and memory", efficiency["charts"]),
        "samples": ("Samples", samples["tables"]),
        "heads": ("Visual heads", maps),
        "provenance": ("Provenance", True),
    }
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(_text(f"{PAGE}/page.html"))
    return template.render(
        title=page.title,
        sentence=page.sentence,
        missing_line=page.missing_line,
        missing=page.missing,
        facts=_facts(page),
        sections=[(key, name) for key, (name, content) in present.items() if content],
        tables=views,
        models=list(dict.fromkeys(table.model for table in page.tables)),
        tasks=list(dict.fromkeys(table.task for table in page.tables)),
        curves=curves,
        verdicts=page.verdicts,
        samples=samples,
        efficiency=efficiency,
        head_maps=[
            {"model": one.model, "caption": one.caption, "light": _png(one.light), "dark": _png(one.dark)}
            for one in maps
        ],
        provenance=_provenance(page),
        cells=sorted((_cell(result, page.tables) for result in page.results), key=lambda cell: cell["what"]),
        version=version("sparsemm"),
        uplot=LIBRARY[1],
        styles=Markup(_text(f"{VENDOR}/uplot/uPlot.min.css") + _text(f"{PAGE}/page.css")),
        data=Markup(
            _json(
                {"curves": curves, "efficiency": efficiency["charts"], "samples": samples, "images": images}
            )
        ),
        scripts=[Markup(script) for script in scripts],
        script_hashes=Markup(" ".join(map(_digest, scripts))),
    )


def _text(path: str) -> str:
    return resolve(path).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """JSON that cannot end the element that it stands in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _png(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _facts(page: Page) -> list[tuple[str, str]]:
    """What was run and when, in a few figures."""
    results = page.results
    if not results:
        return []
    samples = sum(int(result["samples"]) for result in results)
    facts = [
        (f"{len(results)} of {page.expected or len(results)}", "cells finished"),
        (f"{samples:,}", "answers scored"),
        _counted_fact(results, "model"),
        _counted_fact(results, "task"),
    ]
    if when := _when(results):
        facts.append((when, "run (UTC)"))
    facts.append((_names(_of(result, "device") for result in results), "device"))
    return facts


def _counted_fact(results: Sequence[Result], key: str) -> tuple[str, str]:
    found = list(dict.fromkeys(str(result["label"][key]) for result in results))
    return (found[0], key) if len(found) == 1 else (f"{len(found)} {key}s", ", ".join(found))


def _names(names: Iterable[Any]) -> str:
    found = list(dict.fromkeys(str(name) for name in names))
    return ", ".join(found) if len(found) <= 3 else f"{len(found)}: {', '.join(found[:2])}, …"


def _when(results: Sequence[Result]) -> str:
    stamps = sorted(
        datetime.fromisoformat(str(stamp))
        for result in results
        for key in ("started", "finished")
        if (stamp := result["provenance"].get(key))
    )
    if not stamps:
        return ""
    first, last = stamps[0], stamps[-1]
    end = f"{last:%H:%M}" if first.date() == last.date() else f"{last:%d %b %Y, %H:%M}"
    return f"{first:%d %b %Y, %H:%M} – {end}"  # noqa: RUF001


def _of(result: Result, key: str) -> str:
    return str(result["provenance"].get(key, "?"))


def _provenance(page: Page) -> list[tuple[str, str]]:
    results = page.results
    lines = [("Command", page.material.command)] if page.material and page.material.command else []
    if not results:
        return lines
    commits = Counter(
        _of(result, "git_commit")[:12] + " with local changes" * bool(result["provenance"].get("git_dirty"))
        for result in results
    )
    versions = Counter(
        ", ".join(f"{name} {number}" for name, number in sorted(result["provenance"]["versions"].items()))
        for result in results
        if result["provenance"].get("versions")
    )
    lines += [("Commit", _counted(commits, len(results)))] if set(commits) - {"?", "None"} else []
    lines += [("Versions", _counted(versions, len(results)))] if versions else []
    for key, name in (("device", "Device"), ("dtype", "Precision"), ("host", "Machine")):
        found = Counter(_of(result, key) for result in results)
        lines += [(name, _counted(found, len(results)))] if set(found) - {"?"} else []
    lines.append(("Rounding", _names(_rounding(result) for result in results if _rounding(result))))
    groups = {
        (_of(result, "started"), _of(result, "host"), group["wall_s"]): group["wall_s"]
        for result in results
        if (group := result.get("group"))
    }
    if groups:
        lines.append(
            (
                "Time",
                f"{_duration(sum(groups.values()))} of answering in {len(groups)} group"
                f"{'s' * (len(groups) != 1)}; the cells of a group share each prefill, so this is no latency "
                "of any method.",
            )
        )
    return [(name, text) for name, text in lines if text]


def _rounding(result: Result) -> str:
    return str(result["label"].get("rounding") or "")


def _counted(found: Mapping[str, int], total: int) -> str:
    return "; ".join(name if count == total else f"{name} ({count} cells)" for name, count in found.items())


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def describe(label: Mapping[str, Any]) -> str:
    """Return a cell's label as prose."""
    words = {key: value for key, value in label.items() if key not in ("scorer", "allocator")}
    return ", ".join(f"{key} {value}" for key, value in words.items() if value is not None)


def _cell(result: Result, tables: Sequence[Table]) -> dict[str, str]:
    label = result["label"]
    paper = next((table.paper for table in tables), None)
    scale = scale_of(str(result["metric"]), paper, str(label["model"]), str(label["task"]))
    score = result["score"]
    return {
        "fingerprint": str(result["fingerprint"]),
        "what": describe(label),
        "score": "?" if score is None else scale.text(float(score)) + scale.unit,
        "samples": str(result["samples"]) + (f", {result['failed']} failed" if result["failed"] else ""),
        "finished": _of(result, "finished").replace("T", " ").replace("+00:00", ""),
        "device": _of(result, "device"),
    }
