"""Whether a cell's model and task are set up as the paper's: only then may a verdict rest on it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sparsemm.config import Settings
from sparsemm.sweep.cells import Cell
from sparsemm.sweep.compose import Composer

PROTOCOL = "protocol=paper"
# how weights are laid out and who computes attention, and which documents: `whole` in a result tells of them
FREE = {"model": ("revision", "device_map", "attention", "head_scores"), "task": ("limit", "revision")}


def mark_published(composer: Composer, cells: Sequence[Cell]) -> list[Cell]:
    """The cells; marked are those whose model and task are as in conf/ under protocol=paper, unmasked."""
    known: dict[tuple[str, str], Settings | None] = {}

    def plain(section: str, name: str) -> Settings | None:
        if (section, name) not in known:
            known[section, name] = _composed(composer, section, name)
        return known[section, name]

    def check(settings: Settings) -> bool:
        return settings["mask"]["_target_"].endswith(".NoMask") and all(
            _bare(section, plain(section, settings[section]["name"])) == _bare(section, settings[section])
            for section in FREE
        )

    return [replace(cell, published=check(cell.settings)) for cell in cells]


def _composed(composer: Composer, section: str, name: str) -> Settings | None:
    if name not in composer.loader.get_group_options(section):
        return None
    (point,) = composer.points([f"{section}={name}", PROTOCOL])
    return None if point.settings is None else point.settings[section]


def _bare(section: str, settings: Settings | None) -> dict[str, Any] | None:
    return settings and {key: value for key, value in settings.items() if key not in FREE[section]}
