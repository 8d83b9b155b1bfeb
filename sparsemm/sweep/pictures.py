"""What a report shows of a finished sweep besides its numbers: images of samples, and head maps."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparsemm.config import Settings, build
from sparsemm.paths import resolve
from sparsemm.results.efficiency import in_store
from sparsemm.results.page import HeadMap, Material
from sparsemm.results.store import Store
from sparsemm.sweep.digests import canonical
from sparsemm.sweep.jobs import is_grid
from sparsemm.tasks.base import Task


@dataclass
class TaskImages:
    """Images of samples, drawn or read anew from the task that a cell's config.yaml describes."""

    store: Store
    _settings: dict[str, Settings] = field(default_factory=dict)
    _tasks: dict[str, Task | str] = field(default_factory=dict)

    def __call__(self, fingerprint: str, index: int) -> Sequence[Any]:
        """Return the sample's images.

        Raises:
            ValueError: the data is not at hand here.
        """
        if fingerprint not in self._settings:
            self._settings[fingerprint] = self.store.cell(fingerprint).config()["task"]
        settings = self._settings[fingerprint]
        key = canonical(settings)
        if key not in self._tasks:
            self._tasks[key] = _task(settings)
        task = self._tasks[key]
        if isinstance(task, str):
            raise ValueError(task)
        return task.sample(index).images()


def material_of(store: Store, results: Sequence[Mapping[str, Any]], overrides: Sequence[str]) -> Material:
    """Return what a page shows besides results; `overrides` are those of the command."""
    asked = " ".join(["sparsemm run", *(shlex.quote(text) for text in overrides if is_grid(text))])
    return Material(
        store=store,
        images=TaskImages(store),
        head_maps=head_maps(store, results),
        benches=in_store(store.root, {str(one["label"]["model"]) for one in results}),
        command=asked,
    )


def head_maps(store: Store, results: Iterable[Mapping[str, Any]]) -> list[HeadMap]:
    """Return a picture per head-score file that the cells used and that is at hand here."""
    from sparsemm.heads.compare import describe
    from sparsemm.heads.files import load_head_scores, read_head_file
    from sparsemm.heads.pictures import DARK, LIGHT, PAGE_DPI, heat_map, png

    found: dict[str, str] = {}
    first = {(one["label"]["model"], one["label"]["method"]): one["fingerprint"] for one in results}
    for (model, _), fingerprint in sorted(first.items()):
        settings = store.cell(fingerprint).config()
        file = settings.get("model", {}).get("head_scores")
        if file and _reads(settings.get("allocator"), file) and resolve(file).is_file():
            found.setdefault(str(file), str(model))
    maps = []
    for file, model in found.items():
        try:
            scores, content = load_head_scores(file), read_head_file(file)
        except ValueError:
            continue  # it changed since: the cells hold its digest, and the page shows what is there
        count = content.get("samples")
        data = str(content.get("data") or "")
        found_on = f"Found on {count} samples of {data}" if count else data[:1].upper() + data[1:]
        caption = ". ".join(text for text in (describe(scores), found_on) if text) + "."
        draw = heat_map(scores)
        maps.append(HeadMap(model, caption, png(draw, LIGHT, PAGE_DPI), png(draw, DARK, PAGE_DPI)))
    return maps


def _task(settings: Settings) -> Task | str:
    """The task, or why it cannot be read here."""
    try:
        task: Task = build(settings)
        if needs := task.needs():
            return str(needs[0].what)
        return task
    except (ValueError, OSError, ImportError) as error:
        return str(error)


def _reads(node: Any, file: str) -> bool:
    """Whether a component reads the file."""
    if isinstance(node, Mapping):
        return any(_reads(value, file) for value in node.values())
    return bool(node == file)
