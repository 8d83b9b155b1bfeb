"""Which samples the page shows, and what every method answered to them.

Per task at most `MOST` / tasks samples: half where the cells' scores differ most, half evenly spaced.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparsemm.results.names import column_name
from sparsemm.results.page_tables import Colors
from sparsemm.results.scales import PERCENT
from sparsemm.results.store import Store
from sparsemm.results.tables import Row, Table

Record = Mapping[str, Any]
Images = Callable[[str, int], Sequence[Any]]  # fingerprint, index of the sample -> PIL images

MOST = 200  # samples of the page
MOST_IMAGE_BYTES = 3_500_000  # of all images together, before base64: a page stays under 10 MB
SIDES = (1024, 800, 640, 512, 400, 320, 240)  # pixels of an image's longer side, tried in this order
LONGEST = 600  # letters of an answer or a question
IMAGES_EACH = 4  # of one sample


@dataclass
class Gallery:
    """Images of the page, each once: questions and models share them."""

    images: Images
    most: int  # images that are expected
    shown: list[str] = field(default_factory=list)  # data URIs
    _known: dict[tuple[str, int], tuple[list[int], str]] = field(default_factory=dict)
    _places: dict[bytes, int] = field(default_factory=dict)

    def place(self, task: str, fingerprint: str, index: int) -> tuple[list[int], str]:
        """Return the numbers of a sample's images, or why there are none."""
        key = task, index
        if key not in self._known:
            try:
                found = list(self.images(fingerprint, index))[:IMAGES_EACH]
                self._known[key] = (
                    [self._number(encoded(image, self._room // len(found))) for image in found],
                    "",
                )
            except Exception as error:  # a report must not fail where data is not at hand
                said = (str(error).splitlines() or [type(error).__name__])[0]
                self._known[key] = [], f"Its image is not at hand here: {said}"
        return self._known[key]

    @property
    def _room(self) -> int:
        return MOST_IMAGE_BYTES // max(1, self.most)

    def _number(self, data: bytes) -> int:
        if data not in self._places:
            self._places[data] = len(self.shown)
            self.shown.append("data:image/webp;base64," + base64.b64encode(data).decode())
        return self._places[data]


def encoded(image: Any, room: int) -> bytes:
    """Return the image as WebP, as large as `room` bytes allow; the smallest size where none fits."""
    data = b""
    for side in SIDES:
        small = image.convert("RGB")
        small.thumbnail((side, side))
        stream = io.BytesIO()
        small.save(stream, format="WEBP", quality=70)
        data = stream.getvalue()
        if len(data) <= room:
            break
    return data


def sample_views(
    tables: Sequence[Table], colors: Colors, store: Store, images: Images
) -> tuple[dict[str, Any], list[str]]:
    """Return the browser's content and the images that it refers to by number."""
    shown = [table for table in tables if table.entries]
    if not shown:
        return {"tables": [], "about": ""}, []
    tasks = dict.fromkeys(table.task for table in shown)
    each = max(2, MOST // len(shown))
    gallery = Gallery(images, min(MOST, each * len(tasks)))
    chosen: dict[str, list[tuple[str, str]]] = {}
    views = []
    for table in shown:
        views.append(_table(table, colors, store, gallery, chosen, each))
    total = sum(len(view["samples"]) for view in views)
    asked = max(entry.samples for table in shown for entry in table.entries.values())
    about = (
        f"{total} samples of up to {asked} per table: half where the scores differ most, half evenly spaced "
        "over the task. Of several seeds the first is shown."
        if total < sum(max(e.samples for e in table.entries.values()) for table in shown)
        else "All samples. Of several seeds the first is shown."
    )
    return {"tables": [view for view in views if view["samples"]], "about": about}, gallery.shown


def _table(
    table: Table,
    colors: Colors,
    store: Store,
    gallery: Gallery,
    chosen: dict[str, list[tuple[str, str]]],
    each: int,
) -> dict[str, Any]:
    places = {place: entry.fingerprints[0] for place, entry in table.entries.items()}
    records = {place: store.cell(name).samples().records for place, name in places.items()}
    known = chosen.setdefault(table.task, choose(records.values(), each))
    rows, columns = list(table.rows), list(table.columns)
    samples = []
    for name, why in known:
        found = [(place, record[name]) for place, record in records.items() if name in record]
        if not found:
            continue
        place, first = found[0]
        numbers, no_image = gallery.place(table.task, places[place], int(first["index"]))
        samples.append(
            {
                "id": name,
                "why": why,
                "question": _short(str(first.get("question") or "")),
                "references": [_short(str(one)) for one in (first.get("references") or [])[:6]],
                "images": numbers,
                "no_image": no_image,
                "answers": [_answer(rows, columns, at, record) for at, record in found],
            }
        )
    return {
        "title": f"{table.task}, {table.model}",
        "column_key": column_name(table.column_key),
        "percent": table.metric in PERCENT,
        "columns": [str(column) for column in columns],
        "rows": [
            {"name": table.name(row), "color": colors[row], "full": row.family == "full"} for row in rows
        ],
        "samples": samples,
    }


def choose(cells: Iterable[Mapping[str, Record]], most: int) -> list[tuple[str, str]]:
    """Return (sample, why it is shown) of at most `most` samples, in the order of the task.

    Args:
        cells: of every cell its records by sample.
        most: how many; half of them where the scores differ most, half evenly spaced.
    """
    order: dict[str, tuple[int, str]] = {}
    scores: dict[str, list[float]] = {}
    for records in cells:
        for name, record in records.items():
            order.setdefault(name, (int(record.get("index", 0)), name))
            if isinstance(record.get("score"), int | float):
                scores.setdefault(name, []).append(float(record["score"]))
    names = sorted(order, key=order.__getitem__)
    if len(names) <= most:
        return [(name, "one of all samples") for name in names]
    spread = {name: _spread(scores.get(name, [])) for name in names}
    differing = sorted(
        (name for name in names if spread[name]), key=lambda name: (-spread[name], order[name])
    )
    why = dict.fromkeys(differing[: most // 2], "among those whose scores differ most")
    others = [name for name in names if name not in why]
    left = most - len(why)
    why |= {others[number * len(others) // left]: "evenly spaced over the task" for number in range(left)}
    return [(name, why[name]) for name in names if name in why]


def _spread(scores: Sequence[float]) -> float:
    """The variance of the scores: how much it matters which cell is asked."""
    if len(scores) < 2:
        return 0.0
    mean = sum(scores) / len(scores)
    return round(sum((score - mean) ** 2 for score in scores) / len(scores), 9)


def _answer(rows: list[Row], columns: list[Any], place: tuple[Row, Any], record: Record) -> list[Any]:
    """[row, column or -1, answer, score, kept share, why it failed]."""
    row, column = place
    kept, full = record.get("kept_entries"), record.get("full_entries")
    return [
        rows.index(row),
        -1 if column is None else columns.index(column),
        _short(str(record.get("answer") or "")),
        record.get("score"),
        round(kept / full, 4) if kept is not None and full else None,
        _short(str(record["error"])) if record.get("error") is not None else None,
    ]


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + " …"
