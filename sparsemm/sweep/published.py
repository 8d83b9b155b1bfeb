"""Whether a result's model, task and method were set up as the paper's: a verdict needs it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sparsemm.config import Settings, build_model, exact_types
from sparsemm.sweep.cells import NAMES_ONLY, TASK_NAMES_ONLY
from sparsemm.sweep.compose import Composer

PROTOCOL = "protocol=paper"
FREE = {  # who computes attention and where; what is asked; what tables have in rows and columns
    "model": (*NAMES_ONLY, "attention", "content"),
    "task": (*TASK_NAMES_ONLY, "limit", "data"),
    "method": ("name", "budget", "rounding", "scorer", "allocator"),
    "scorer": (),
    "allocator": ("rho", "seed", "head_scores"),
}


@dataclass
class Published:
    """Compares results with what conf/ says under protocol=paper."""

    composer: Composer
    _known: dict[tuple[str, str], Settings | None] = field(default_factory=dict)

    def marked(self, results: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The results, each with `published`: true or false."""
        return [{**result, "published": self.check(result)} for result in results]

    def check(self, result: Mapping[str, Any]) -> bool:
        """Whether every setting but those of FREE is as published, and the weights are."""
        identity, label = result.get("identity"), result["label"]
        if identity is None:  # of an older version
            return False
        plain = {section: self._plain(section, label[section]) for section in ("model", "task", "method")}
        model, task, method = plain["model"], plain["task"], plain["method"]
        if model is None or task is None or method is None or "mask" in identity:
            return False
        rows = identity.get("engine", {}).get("rows", model["engine"]["rows"])
        return (
            rows == model["engine"]["rows"]
            and _bare("model", identity["model"]) == _bare("model", model["model"])
            and _bare("task", identity["task"]) == _bare("task", task["task"])
            and _method(identity["method"], method)
            and self._weights(result, model)
        )

    def _plain(self, section: str, name: str) -> Settings | None:
        """The settings with this choice and no other; None where conf/ has no such choice."""
        if (section, name) not in self._known:
            found = None
            if name in self.composer.loader.get_group_options(section):
                (point,) = self.composer.points([f"{section}={name}", PROTOCOL])
                found = point.settings
            self._known[section, name] = found
        return self._known[section, name]

    def _weights(self, result: Mapping[str, Any], plain: Settings) -> bool:
        """Whether they came from the published repository, or are the same as those of it that are here."""
        if result["provenance"].get("model") == plain["model"]["path"]:
            return True
        adapter = build_model(plain)
        return not adapter.needs() and adapter.content_id() == result["identity"]["model"]["content"]


def _method(identity: Mapping[str, Any], plain: Settings) -> bool:
    parts = [("allocator", plain["allocator"])]
    if plain["method"]["budget"] is not None:
        parts.append(("scorer", plain["scorer"]))
        expected = dict(_bare("method", plain["method"]))
        found = dict(_bare("method", identity))
        if plain["method"]["name"] == "window":  # there the budget is the window
            expected.pop("window"), found.pop("window", None)
        if found != expected:
            return False
    return all(
        _bare(section, identity.get(section, {})) == _bare(section, exact_types(section, node))
        for section, node in parts
    )


def _bare(section: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in FREE[section]}
