"""From overrides to the settings of every cell: Hydra's composition, done once per choice of groups."""

import contextlib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import AnyNode, DictConfig, ListConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from sparsemm.config import Settings
from sparsemm.sweep.assemble import Assembler
from sparsemm.sweep.errors import explain
from sparsemm.sweep.repository import GridLoader

REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")
Path = tuple[str | int, ...]


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
    _bases: dict[tuple[str, ...], "_Base | str"] = field(default_factory=dict)
    _groups: dict[str, bool] = field(default_factory=dict)
    _grid_loader: GridLoader | None = None
    _assembler: Assembler | None = None

    def points(self, arguments: Sequence[str]) -> Iterator[Point]:
        """Every point of the grid that Hydra's grammar describes, in the order of the basic sweeper."""
        axes = self.axes(arguments)
        if self.fast:
            parts = [[one.text for one in axis] for axis in axes if not axis[0].patch]
            self._assembler = Assembler(self._load, parts)
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

    def _composed(self, overrides: tuple[str, ...]) -> DictConfig:
        if self._assembler is not None:
            with contextlib.suppress(HydraException, OmegaConfBaseException):  # Hydra words its own errors
                return self._assembler.config(overrides)
        return self.loader.load_sweep_config(self.master, list(overrides))

    def _load(self, overrides: tuple[str, ...]) -> DictConfig:
        self._grid_loader = self._grid_loader or GridLoader(self.loader, self.master)
        return self._grid_loader.compose(overrides)

    def _base(self, overrides: tuple[str, ...]) -> "_Base":
        if overrides not in self._bases:
            try:
                self._bases[overrides] = _Base(self._composed(overrides))
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
    return _Base(config).settings({})


class _Base:
    """One composed configuration. Values are set, and what refers to them is resolved again, per point."""

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        if "hydra" in config:
            with read_write(config), open_dict(config):
                del config["hydra"]
        self.raw: Any = OmegaConf.to_container(config, resolve=False)
        self.leaves = {_dotted(path): path for path in _walk(self.raw, ())}
        self.referring = {
            dotted: path for dotted, path in self.leaves.items() if "${" in str(_get(self.raw, path))
        }
        self.known: dict[tuple[str, type, Any], Any] = {}
        self.sections: dict[str, set[str]] = {}
        self.untyped = {dotted for dotted, path in self.referring.items() if _is_untyped(config, path)}

    def settings(self, patch: dict[str, Any]) -> Settings:
        settings: Settings = _copy(self.raw)
        for key, value in patch.items():
            _set(settings, self.leaves[key], self._typed(key, value))
        for dotted, path in self.referring.items():
            if dotted not in patch:
                _set(settings, path, self._resolved(dotted, settings, patch))
        for dotted, path in self.leaves.items():
            if _get(settings, path) == "???":
                raise ValueError(f"{dotted}: must be given. Add {dotted}=<value>.")
        return settings

    def _typed(self, key: str, value: Any) -> Any:
        return self._once((key, type(value), value), key, {key: value})

    def _resolved(self, dotted: str, settings: Settings, patch: dict[str, Any]) -> Any:
        source = self._source(_get(self.raw, self.leaves[dotted]), settings, patch)
        if source is None:
            if self._untouched(dotted, patch):
                return self._once((dotted, str, None), dotted, {})
            return self._select(dotted, patch)
        if dotted in self.untyped:
            return source[0]
        return self._once((dotted, type(source[0]), source[0]), dotted, patch)

    def _source(self, text: str, settings: Settings, patch: dict[str, Any]) -> tuple[Any] | None:
        """The value at the end of a chain of plain references, or None where Hydra's resolvers are needed."""
        for _ in range(8):
            match = REFERENCE.fullmatch(text)
            if match is None or match[1] not in self.leaves:
                return None
            if match[1] in patch or match[1] not in self.referring:
                return (_get(settings, self.leaves[match[1]]),)
            text = _get(self.raw, self.leaves[match[1]])
        return None

    def _untouched(self, dotted: str, patch: dict[str, Any]) -> bool:
        """Whether a text such as `${output}/a.json` refers to plain values only, and to none of `patch`."""
        text = str(_get(self.raw, self.leaves[dotted]))
        names = REFERENCE.findall(text)
        inside = [self._inside(name) for name in names]
        plain = all(leaves and not leaves & self.referring.keys() for leaves in inside)
        return (
            plain and text.count("${") == len(names) and not any(leaves & patch.keys() for leaves in inside)
        )

    def _inside(self, name: str) -> set[str]:
        """The leaves of a section, or the leaf itself."""
        if name not in self.sections:
            found = {leaf for leaf in self.leaves if leaf == name or leaf.startswith(f"{name}.")}
            self.sections[name] = found
        return self.sections[name]

    def _once(self, known: tuple[str, type, Any], key: str, patch: dict[str, Any]) -> Any:
        if known not in self.known:
            try:
                self.known[known] = self._select(key, patch)
            except ValueError as error:
                self.known[known] = error
        value = self.known[known]
        if isinstance(value, ValueError):
            raise ValueError(str(value))
        return value

    def _select(self, key: str, patch: dict[str, Any]) -> Any:
        try:
            for name, value in patch.items():
                OmegaConf.update(self.config, name, value, merge=True)
            if OmegaConf.is_missing(self.config, key):
                return "???"
            found = OmegaConf.select(self.config, key)
            is_node = isinstance(found, DictConfig | ListConfig)
            return OmegaConf.to_container(found, resolve=True) if is_node else found
        except OmegaConfBaseException as error:
            raise ValueError(explain(error, self.config)) from error
        finally:
            for name in patch:
                OmegaConf.update(self.config, name, _get(self.raw, self.leaves[name]), merge=True)


def _is_untyped(config: DictConfig, path: Path) -> bool:
    """Whether what a reference leads to is taken there as it is."""
    node: Any = config
    for part in path:
        node = node._get_node(part)
    return isinstance(node, AnyNode) and node._metadata.ref_type is Any


def _values(override: Override) -> list[str]:
    if override.is_sweep_override():
        if not override.is_discrete_sweep():
            raise HydraException(
                f"{override.input_line}: an interval cannot be swept. Use range() or a list."
            )
        return [str(value) for value in override.sweep_string_iterator()]
    return [override.get_value_element_as_str()]


def _copy(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _copy(child) for key, child in node.items()}
    return [_copy(child) for child in node] if isinstance(node, list) else node


def _walk(node: Any, path: Path) -> Iterator[Path]:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if not children:
        yield path
    else:
        for key, child in children:
            yield from _walk(child, (*path, key))


def _dotted(path: Path) -> str:
    return ".".join(str(part) for part in path)


def _get(node: Any, path: Path) -> Any:
    for part in path:
        node = node[part]
    return node


def _set(node: Any, path: Path, value: Any) -> None:
    _get(node, path[:-1])[path[-1]] = value
