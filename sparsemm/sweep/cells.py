"""Cells: points of the grid with an identity, the part of the settings that can change a result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sparsemm.config import (
    Settings,
    build,
    build_model,
    build_task,
    check_settings,
    exact_types,
)
from sparsemm.heads.files import check_model, read_head_file
from sparsemm.needs import Need
from sparsemm.paths import absolute, resolve
from sparsemm.sweep.digests import canonical, digest, file_digest
from sparsemm.sweep.head_files import files_in, head_files
from sparsemm.sweep.labels import distinct_labels, label
from sparsemm.sweep.smoke import smoke_settings

NUMERICS = 1  # raise it when a change of the code changes results
SECTIONS = ("model", "method", "scorer", "allocator", "mask", "task", "engine")
# what they lead to is in the identity as content; where the weights lie changes nothing
NAMES_ONLY = ("name", "path", "revision", "head_scores", "device_map")
# where a task's data comes from, and what is only shown
_SOURCES = ("repo", "revision", "files", "image_files")
TASK_NAMES_ONLY = ("name", "full_samples", "columns", "references", *_SOURCES)
PATHS = ("path", "head_scores", "data")  # keys that hold paths of this machine
MISSING = "not here yet"  # in an identity: what stands for content that must be brought first
TASK_NEEDS = {"data", "package"}  # without these a task's data cannot be looked at
HEAD_SCORES = "sparsemm.heads.files.load_head_scores"
CHECKED_SCORES = "sparsemm.heads.files.read_scores"  # the same numbers without torch
ROWS_MATTER = ("bfloat16", "float16")  # there a matrix product depends on the number of rows


@dataclass(frozen=True)
class Cell:
    """One point of the grid."""

    fingerprint: str  # first 20 hex digits of the sha256 of `identity`
    settings: Settings  # plain and resolved: what a worker needs
    identity: dict[str, Any]  # what can change the result, and nothing else
    group: str  # cells of one group share a prefill and a job
    label: dict[str, Any]  # flat, for tables; None where the method does not use it
    needs: tuple[Need, ...] = ()  # what must be brought before it can run; its fingerprint changes then


@dataclass
class CellMaker:
    """Checks settings and makes cells of them; what a grid's cells have in common is looked at once."""

    _memo: dict[tuple[str, str], Any] = field(default_factory=dict)
    _texts: dict[int, str] = field(default_factory=dict)  # of the nodes of the cell in hand, by id

    def cell(self, settings: Settings) -> Cell:
        """The cell of resolved settings.

        Raises:
            ValueError: settings that no run could use.
        """
        if settings["smoke"]:
            settings = smoke_settings(settings)
        _check_values(settings)
        return self._cell(settings)

    def again(self, settings: Settings) -> Cell:
        """The cell of a job file's settings, with the head scores that are there now.

        Raises:
            ValueError: scores that it cannot use, or something is missing.
        """
        cell = self._cell(settings)
        if cell.needs:
            raise ValueError(str(cell.needs[0]))
        return cell

    def _cell(self, settings: Settings) -> Cell:
        self._texts = {id(settings[name]): canonical(settings[name]) for name in SECTIONS}
        needs = self._needs(settings)
        self._check(settings, needs)
        shared = {"numerics": NUMERICS, **self._shared(settings)}
        identity = {**shared, "method": self._method_identity(settings)}
        return Cell(
            fingerprint=digest(identity)[:20],
            settings={name: _with_absolute_paths(settings[name]) for name in SECTIONS},
            identity=identity,
            group=digest(shared)[:20],
            label=label(settings),
            needs=needs,
        )

    def _needs(self, settings: Settings) -> tuple[Need, ...]:
        sections = [self._texts[id(settings[name])] for name in SECTIONS if name != "method"]
        self._once("settings", sections, lambda: check_settings(settings))
        model = self._once("model needs", settings["model"], lambda: build_model(settings).needs())
        task = self._once("task needs", settings["task"], lambda: build_task(settings).needs())
        files = [file for file in head_files(settings) if not resolve(file).is_file()]
        heads = [head_need(settings, file) for file in files]
        return tuple(sorted({*model, *task, *heads}))

    def _check(self, settings: Settings, needs: Sequence[Need]) -> None:
        """Check all that can be checked without what is missing; the worker checks the rest."""
        kinds = {need.kind for need in needs}
        mask: Any = None
        if "heads" not in kinds:
            mask = self._once("mask", settings["mask"], lambda: _planned(settings["mask"]))
        if "weights" not in kinds:
            model = self._once("model", settings["model"], lambda: _checked(build_model(settings)))
            shape = self._once("shape", settings["model"], lambda: model.shape())
        if not kinds & TASK_NEEDS:
            self._once("task", settings["task"], lambda: _checked(build_task(settings)))
        blind = any(not resolve(file).is_file() for file in files_in(settings["allocator"]))
        method = self._method(settings, blind)
        if not kinds & {"heads", "weights"}:
            for file in head_files(settings):
                self._once(
                    "scores of", [settings["model"], file], lambda file=file: _check_scores(settings, file)
                )
            method.check(shape)
            mask.check(shape)

    def _method(self, settings: Settings, blind: bool) -> Any:
        """The method; `blind`: its head scores are not there, so another allocator stands in for its own."""
        from sparsemm.methods.allocators.uniform import Uniform
        from sparsemm.methods.base import Method

        scorer = self._once("scorer", settings["scorer"], lambda: build(settings["scorer"]))
        allocator = (
            Uniform()
            if blind
            else self._once("allocator", settings["allocator"], lambda: _planned(settings["allocator"]))
        )
        if settings["scorer"]["_target_"].endswith(".NoScorer") and not allocator.keeps_all:
            raise ValueError("scorer=none: this method ranks tokens. Choose one, as scorer=window_attention.")
        return Method(**settings["method"], scorer=scorer, allocator=allocator)

    def _shared(self, settings: Settings) -> dict[str, Any]:
        model, task, engine = (settings[name] for name in ("model", "task", "engine"))
        shared = {
            "model": {
                **{key: value for key, value in model.items() if key not in NAMES_ONLY},
                "content": self._once("content", model, lambda: _model_content(settings)),
            },
            "task": {
                **{key: value for key, value in task.items() if key not in TASK_NAMES_ONLY},
                "data": self._once("data", task, lambda: _task_content(settings)),
            },
        }
        if not settings["mask"]["_target_"].endswith(".NoMask"):
            shared["mask"] = self._once(
                "mask identity", settings["mask"], lambda: _component(settings, "mask")
            )
        computed = {"rows": engine["rows"]} if model["dtype"] in ROWS_MATTER else {}
        if engine["cache_backend"] != "auto":  # what auto led to is in the result's provenance
            computed["cache_backend"] = engine["cache_backend"]
        return {**shared, "engine": computed} if computed else shared

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
        key = (kind, self._texts.get(id(node)) or canonical(node))
        if key not in self._memo:
            try:
                self._memo[key] = make()
            except (ValueError, OSError) as error:
                self._memo[key] = ValueError(str(error))
        found = self._memo[key]
        if isinstance(found, ValueError):
            raise ValueError(str(found))
        return found


def with_distinct_labels(cells: Sequence[Cell]) -> list[Cell]:
    """The cells with labels that tell them apart."""
    labels = distinct_labels([cell.label for cell in cells], [cell.identity for cell in cells])
    return [replace(cell, label=one) for cell, one in zip(cells, labels, strict=True)]


def head_need(settings: Settings, file: str) -> Need:
    """A head-score file that is not there."""
    return Need(
        "heads",
        f"head scores of {settings['model']['name']} ({file})",
        "run with find_heads=true, or give a file: model.head_scores=FILE",
    )


def _check_scores(settings: Settings, file: str) -> None:
    check_model(file, read_head_file(file), _model_content(settings), settings["model"]["name"])


def _model_content(settings: Settings) -> str:
    model = build_model(settings)
    return f"{MISSING}: {model.path} {model.revision}" if model.needs() else str(model.content_id())


def _task_content(settings: Settings) -> str:
    task = build_task(settings)
    return f"{MISSING}: {task.name}" if {need.kind for need in task.needs()} & TASK_NEEDS else task.data_id()


def _with_absolute_paths(node: Any) -> Any:
    """A worker may start in another folder than the command."""
    if isinstance(node, Mapping):
        return {
            key: absolute(value) if key in PATHS and isinstance(value, str) else _with_absolute_paths(value)
            for key, value in node.items()
        }
    return node


def _checked(checkable: Any) -> Any:
    checkable.check()
    return checkable


def _planned(node: Settings) -> Any:
    """A component as it is checked: its head scores are plain numbers."""

    def plain(inner: Any) -> Any:
        if not isinstance(inner, Mapping):
            return inner
        found = {key: plain(value) for key, value in inner.items()}
        return {**found, "_target_": CHECKED_SCORES} if found.get("_target_") == HEAD_SCORES else found

    return build(plain(node))


def _check_values(settings: Settings) -> None:
    from sparsemm.methods.head_shares import check_rho

    check_rho(settings["rho"])  # a method that ignores rho would not look at it
    if settings["seed"] < 0:
        raise ValueError(f"seed={settings['seed']}: must be 0 or more. Set seed.")


def _component(settings: Settings, section: str) -> dict[str, Any]:
    return {key: content_of(value) for key, value in exact_types(section, settings[section]).items()}


def content_of(value: Any) -> Any:
    """A file is known by its content, wherever it lies."""
    if isinstance(value, Mapping) and "_target_" in value and "path" in value:
        rest = {key: content_of(inner) for key, inner in value.items() if key != "path"}
        path = str(value["path"])
        if not resolve(path).is_file():
            return {**rest, "sha256": f"{MISSING}: {path}"}
        if value["_target_"] == HEAD_SCORES:  # their numbers count; when and how they were found does not
            return {**rest, "scores": digest(read_head_file(path)["scores"])}
        return {**rest, "sha256": file_digest(path)}
    return value
