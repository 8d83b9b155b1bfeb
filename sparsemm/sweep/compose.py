"""From overrides to the settings of every cell: Hydra's composition, done once per choice of groups."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from sparsemm.config import Settings
from sparsemm.sweep.assemble import Assembler
from sparsemm.sweep.errors import explain
from sparsemm.sweep.repository import GridLoader
from sparsemm.sweep.resolve import Base, Part


@dataclass(frozen=True)
class Choice:
    """One value of one override."""

    text: str  # as written on a command line
    key: str
    value: Any
    patch: bool  # a plain value that changes no other choice, so that it can be set after the composition


@dataclass(frozen=True)
class Point:
    """One point of the grid: its settings, or what is wrong with it."""

    overrides: tuple[str, ...]  # those that differ between the points
    settings: Settings | None
    error: str | None


@dataclass
class Composer:
    """Composes the points of a grid. `fast=False` asks Hydra for every point: slow, and the same settings."""

    loader: ConfigLoader
    master: DictConfig
    fast: bool = True
    _bases: dict[tuple[str, ...], Base | str] = field(default_factory=dict)
    _groups: dict[str, bool] = field(default_factory=dict)
    _assembler: Assembler | None = None

    def points(self, arguments: Sequence[str]) -> Iterator[Point]:
        """Every point of the grid that Hydra's grammar describes, in the order of the basic sweeper."""
        axes = self.axes(arguments)
        if self.fast:
            parts = [[one.text for one in axis] for axis in axes if not axis[0].patch]
            self._assembler = Assembler(self._load, parts, lambda: self._grid_loader.chooses_by_choices)
        for choices in itertools.product(*axes):
            overrides = tuple(one.text for one, axis in zip(choices, axes, strict=True) if len(axis) > 1)
            try:
                yield Point(overrides, self._settings(choices), None)
            except ValueError as error:
                yield Point(overrides, None, str(error))

    def axes(self, arguments: Sequence[str]) -> list[list[Choice]]:
        """The values of each override; of equal keys the last counts.

        Raises:
            ValueError: an override that cannot be read.
        """
        parser = OverridesParser.create(config_loader=self.loader)
        texts: dict[str, list[str]] = {}
        try:
            for override in parser.parse_overrides(list(arguments)):
                key = override.get_key_element()
                texts[key] = [f"{key}={value}" for value in _values(override)]
            axes = [[(text, parser.parse_override(text)) for text in axis] for axis in texts.values()]
        except HydraException as error:
            raise ValueError(explain(error, self.master, self.loader)) from error
        keys = [axis[0][1].key_or_group for axis in axes if not self._is_group(axis[0][1])]
        return [
            [Choice(text, o.key_or_group, o.value(), self._is_patch(o, keys)) for text, o in axis]
            for axis in axes
        ]

    def _is_patch(self, override: Override, keys: Sequence[str]) -> bool:
        """Whether the value can be set after the composition; `keys` are those of all plain values."""
        key, value = override.key_or_group, override.value()
        overlaps = [o for o in keys if o == key or o.startswith(f"{key}.") or key.startswith(f"{o}.")]
        return (
            self.fast
            and override.type == OverrideType.CHANGE
            and override.package is None
            and len(overlaps) == 1
            and not isinstance(value, list | dict)
            and "${" not in str(value)
            and not self._is_group(override)
        )

    def _is_group(self, override: Override) -> bool:
        key = override.key_or_group
        if key not in self._groups:
            options = self.loader.get_group_options(key, results_filter=None)
            self._groups[key] = bool(options)
        return self._groups[key] and not isinstance(override.value(), dict)

    def _settings(self, choices: Sequence[Choice]) -> Settings:
        base = self._base(tuple(choice.text for choice in choices if not choice.patch))
        patch = {choice.key: choice.value for choice in choices if choice.patch}
        if patch.keys() <= base.leaves.keys():
            return base.settings(patch)
        return self._base(tuple(choice.text for choice in choices)).settings({})

    def _composed(self, overrides: tuple[str, ...]) -> Base:
        if self._assembler is not None:
            with contextlib.suppress(HydraException, OmegaConfBaseException):  # Hydra words its own errors
                return self._assembler.base(overrides)
        return Base.of(Part(self.loader.load_sweep_config(self.master, list(overrides))))

    @cached_property
    def _grid_loader(self) -> GridLoader:
        return GridLoader(self.loader, self.master)

    def _load(self, overrides: tuple[str, ...]) -> DictConfig:
        return self._grid_loader.compose(overrides)

    def _base(self, overrides: tuple[str, ...]) -> Base:
        if overrides not in self._bases:
            try:
                self._bases[overrides] = self._composed(overrides)
            except (HydraException, OmegaConfBaseException) as error:
                self._bases[overrides] = explain(error, self.master, self.loader)
        base = self._bases[overrides]
        if isinstance(base, str):
            raise ValueError(base)
        return base


def plain_settings(config: DictConfig) -> Settings:
    """The resolved settings of a composed configuration.

    Raises:
        ValueError: a value is missing or cannot be resolved.
    """
    return Base.of(Part(config)).settings({})


def _values(override: Override) -> list[str]:
    if override.is_sweep_override():
        if not override.is_discrete_sweep():
            raise HydraException(
                f"{override.input_line}: an interval cannot be swept. Use range() or a list."
            )
        return [str(value) for value in override.sweep_string_iterator()]
    return [override.get_value_element_as_str()]
