"""Cells: points of the grid with an identity, the part of the settings that can change a result."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from sparsemm.config import (
    Settings,
    build,
    build_model,
    build_task,
    check_settings,
    exact_types,
)
from sparsemm.paths import resolve

NUMERICS = 1  # raise it when a change of the code changes results
SECTIONS = ("model", "method", "scorer", "allocator", "task", "engine")
# what they lead to is in the identity as content; where the weights lie changes nothing
NAMES_ONLY = ("name", "path", "revision", "head_scores", "device_map")
PATHS = ("path", "head_scores")  # keys that hold paths of this machine
DIGESTS = (("model", "content"), ("task", "data"))  # in a label only where nothing readable tells cells apart
SHOWN = 16  # hex digits of a digest in a label
ROWS_MATTER = ("bfloat16", "float16")  # there a matrix product depends on the number of rows


@dataclass(frozen=True)
class Cell:
    """One point of the grid."""

    fingerprint: str  # first 20 hex digits of the sha256 of `identity`
    settings: Settings  # plain and resolved: what a worker needs
    identity: dict[str, Any]  # what can change the result, and nothing else
    group: str  # cells of one group share a prefill and a job
    label: dict[str, Any]  # flat, for tables; None where the method does not use it


@dataclass
class CellMaker:
    """Checks settings and makes cells of them; what a grid's cells have in common is looked at once."""

    _memo: dict[tuple[str, str], Any] = field(default_factory=dict)

    def cell(self, settings: Settings) -> Cell:
        """The cell of resolved settings.

        Raises:
            ValueError: settings that no run could use, or a prerequisite that is missing.
        """
        self._check(settings)
        shared = {"numerics": NUMERICS, **self._shared(settings)}
        identity = {**shared, "method": self._method_identity(settings)}
        return Cell(
            fingerprint=digest(identity)[:20],
            settings={name: _with_absolute_paths(settings[name]) for name in SECTIONS},
            identity=identity,
            group=digest(shared)[:20],
            label=_label(settings, identity),
        )

    def _check(self, settings: Settings) -> None:
        _check_values(settings)
        sections = {name: settings[name] for name in ("model", "task", "scorer", "allocator", "engine")}
        self._once("settings", sections, lambda: check_settings(settings))
        model = self._once("model", settings["model"], lambda: _checked(build_model(settings)))
        self._once("task", settings["task"], lambda: _checked(build_task(settings)))
        shape = self._once("shape", settings["model"], lambda: model.shape())
        self._method(settings).check(shape)

    def _method(self, settings: Settings) -> Any:
        from sparsemm.methods.base import Method

        scorer = self._once("scorer", settings["scorer"], lambda: build(settings["scorer"]))
        allocator = self._once("allocator", settings["allocator"], lambda: build(settings["allocator"]))
        if settings["scorer"]["_target_"].endswith(".NoScorer") and not allocator.keeps_all:
            raise ValueError("scorer=none: this method ranks tokens. Choose one, as scorer=window_attention.")
        return Method(**settings["method"], scorer=scorer, allocator=allocator)

    def _shared(self, settings: Settings) -> dict[str, Any]:
        model, task, engine = (settings[name] for name in ("model", "task", "engine"))
        shared = {
            "model": {
                **{key: value for key, value in model.items() if key not in NAMES_ONLY},
                "content": self._once("content", model, lambda: build_model(settings).content_id()),
            },
            "task": {
                **{key: value for key, value in task.items() if key != "name"},
                "data": self._once("data", task, lambda: build_task(settings).data_id()),
            },
        }
        return {**shared, "engine": {"rows": engine["rows"]}} if model["dtype"] in ROWS_MATTER else shared

    def _method_identity(self, settings: Settings) -> dict[str, Any]:
        allocator = self._once(
            "allocator identity", settings["allocator"], lambda: _component(settings, "allocator")
        )
        if settings["method"]["budget"] is None:
            return {"allocator": allocator}
        method = {key: value for key, value in settings["method"].items() if key != "name"}
        scorer = self._once("scorer identity", settings["scorer"], lambda: _component(settings, "scorer"))
        return {**method, "budget": str(method["budget"]), "scorer": scorer, "allocator": allocator}

    def _once(self, kind: str, node: Any, make: Any) -> Any:
        key = (kind, canonical(node))
        if key not in self._memo:
            try:
                self._memo[key] = make()
            except (ValueError, OSError) as error:
                self._memo[key] = ValueError(str(error))
        found = self._memo[key]
        if isinstance(found, ValueError):
            raise ValueError(str(found))
        return found


def with_distinct_labels(cells: list[Cell]) -> list[Cell]:
    """Name what tells cells apart where their labels alone do not, such as `snapkv scorer.pool_kernel=3`."""
    alike: dict[str, list[Cell]] = {}
    for cell in cells:
        alike.setdefault(canonical(cell.label), []).append(cell)
    named: dict[str, Cell] = {}
    for group in alike.values():
        leaves = [dict(_leaves(cell.identity)) for cell in group]
        keys = dict.fromkeys(key for leaf in leaves for key in leaf)
        differing = [key for key in keys if len({canonical(leaf.get(key)) for leaf in leaves}) > 1]
        named_keys = [key for key in differing if key not in DIGESTS]
        several = len({canonical([leaf.get(key) for key in named_keys]) for leaf in leaves}) < len(group)
        for cell, leaf in zip(group, leaves, strict=True):
            label = _told_apart(cell.label, leaf, differing if several else named_keys)
            named[cell.fingerprint] = replace(cell, label=label)
    return [named[cell.fingerprint] for cell in cells]


def canonical(value: Any) -> str:
    """The one JSON text of a plain value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """The sha256 of a plain value, in hex."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


@cache
def file_digest(path: str) -> str:
    """The sha256 of a file, read once per process."""
    try:
        return hashlib.sha256(resolve(path).read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error


def _with_absolute_paths(node: Any) -> Any:
    """A worker may start in another folder than the command."""
    if isinstance(node, Mapping):
        return {
            key: str(Path(value).expanduser().absolute())
            if key in PATHS and isinstance(value, str) and "://" not in value
            else _with_absolute_paths(value)
            for key, value in node.items()
        }
    return node


def _checked(checkable: Any) -> Any:
    checkable.check()
    return checkable


def _check_values(settings: Settings) -> None:
    from sparsemm.methods.head_shares import check_rho

    check_rho(settings["rho"])  # a method that ignores rho would not look at it
    if settings["seed"] < 0:
        raise ValueError(f"seed={settings['seed']}: must be 0 or more. Set seed.")


def _component(settings: Settings, section: str) -> dict[str, Any]:
    return {key: _content(value) for key, value in exact_types(section, settings[section]).items()}


def _content(value: Any) -> Any:
    """A file is known by its content, wherever it lies."""
    if isinstance(value, Mapping) and "_target_" in value and "path" in value:
        rest = {key: _content(inner) for key, inner in value.items() if key != "path"}
        return {**rest, "sha256": file_digest(str(value["path"]))}
    return value


def _label(settings: Settings, identity: dict[str, Any]) -> dict[str, Any]:
    compresses = settings["method"]["budget"] is not None
    allocator = settings["allocator"]
    return {
        "model": settings["model"]["name"],
        "task": settings["task"]["name"],
        "method": settings["method"]["name"],
        "scorer": _module(settings["scorer"]) if compresses else None,
        "allocator": _module(allocator),
        "budget": settings["method"]["budget"],
        "rho": allocator.get("rho"),
        "seed": allocator.get("seed"),
        "rounding": settings["method"]["rounding"] if compresses else None,
        "window": settings["method"]["window"] if compresses else None,
    }


def _leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, (*path, str(key)))
    else:
        yield path, node


def _told_apart(
    label: dict[str, Any], leaves: dict[tuple[str, ...], Any], keys: list[tuple[str, ...]]
) -> dict[str, Any]:
    label = dict(label)
    for section, *rest in keys:
        place = section if section in ("model", "task") else "method"
        text = str(leaves.get((section, *rest)))
        text = text[:SHOWN] if re.fullmatch("[0-9a-f]{32,}", text) else text
        label[place] = f"{label[place]} {'.'.join(rest)}={text}"
    return label


def _module(node: Settings) -> str:
    return str(node["_target_"]).split(".")[-2]
