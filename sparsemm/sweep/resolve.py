"""From composed sections to the settings of a point: values are set, and references to them resolved again.

Hundreds of points share a few compositions. What a section holds, and what OmegaConf makes of a value in one
of its typed places, is asked once per composition; plain references are followed here.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

from omegaconf import AnyNode, DictConfig, ListConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from sparsemm.config import Settings
from sparsemm.sweep.errors import explain

REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")
Place = tuple[str | int, ...]


class Part:
    """One configuration as Hydra composed it.

    Args:
        config: its `hydra` section is taken out.
        first: another one; sections that are equal in both are that one's.
    """

    def __init__(self, config: DictConfig, first: "Part | None" = None) -> None:
        if "hydra" in config:
            with read_write(config), open_dict(config):
                del config["hydra"]
        self.config = config
        self.raw: Any = OmegaConf.to_container(config, resolve=False)
        theirs = first.raw if first else {}
        self.owners: dict[str, Part] = {
            key: first.owners[key] if first and key in theirs and same(theirs[key], node) else self
            for key, node in self.raw.items()
        }
        self._known: dict[tuple[str, type, str], Any] = {}

    @cached_property
    def leaves(self) -> dict[str, dict[str, Place]]:
        """Section -> dotted key -> place of a value."""
        return {key: {_dotted(p): p for p in _walk(node, (key,))} for key, node in self.raw.items()}

    @cached_property
    def referring(self) -> dict[str, dict[str, Place]]:
        """Section -> those whose value refers to others."""
        return {
            key: {dotted: p for dotted, p in leaves.items() if "${" in str(_get(self.raw, p))}
            for key, leaves in self.leaves.items()
        }

    @cached_property
    def untyped(self) -> set[str]:
        """References that take what they lead to as it is."""
        found = (item for leaves in self.referring.values() for item in leaves.items())
        return {dotted for dotted, place in found if _is_untyped(self.config, place)}

    def converted(self, key: str, value: Any) -> Any:
        """What `value` becomes at `key`.

        Raises:
            ValueError: it cannot stand there.
        """
        known = (key, type(value), repr(value))  # 0.0 == -0.0
        if known not in self._known:
            place = self.leaves[key.split(".")[0]][key]
            try:
                self._known[known] = select(self.config, key, {key: (value, _get(self.raw, place))})
            except ValueError as error:
                self._known[known] = error
        found = self._known[known]
        if isinstance(found, ValueError):
            raise ValueError(str(found))
        return found


class Base:
    """Sections that make up one configuration, of which points differ in plain values only.

    Args:
        owners: section -> the composition that it is taken from.
        whole: the configuration itself, for what plain references do not cover.
    """

    def __init__(self, owners: Mapping[str, Part], whole: Callable[[], DictConfig]) -> None:
        self._owners, self._whole = owners, whole
        self.raw: Any = {key: part.raw[key] for key, part in owners.items()}
        self.leaves = {k: p for key, part in owners.items() for k, p in part.leaves[key].items()}
        self._referring = {k: p for key, part in owners.items() for k, p in part.referring[key].items()}
        self._missing = [key for key, place in self.leaves.items() if _get(self.raw, place) == "???"]

    @classmethod
    def of(cls, part: Part) -> "Base":
        """A configuration as it was composed."""
        return cls(part.owners, lambda: part.config)

    def settings(self, patch: Mapping[str, Any]) -> Settings:
        """Plain, resolved settings, where `patch` (dotted key -> value) is set.

        Raises:
            ValueError: a value is missing, cannot stand where it is, or cannot be resolved.
        """
        settings: Settings = _copy(self.raw)
        for key, value in patch.items():
            _set(settings, self.leaves[key], self._owner(key).converted(key, value))
        point = _Point(self, settings, patch)
        for key, place in self._referring.items():
            if key not in patch:
                _set(settings, place, point.value(key))
        for key in (*self._missing, *self._referring):
            if _get(settings, self.leaves[key]) == "???":
                raise ValueError(f"{key}: must be given. Add {key}=<value>.")
        return settings

    def refers(self, key: str) -> bool:
        """Whether the value refers to others."""
        return key in self._referring

    def plain_section(self, key: str) -> Place | None:
        """The place of a list or a mapping in which nothing refers to others; None where it is no such."""
        inside = [leaf for leaf in self._owner_leaves(key) if leaf.startswith(f"{key}.")]
        if not inside or any(leaf in self._referring for leaf in inside):
            return None
        place = self.leaves[inside[0]][: key.count(".") + 1]
        return place if _dotted(place) == key else None  # a key with a dot in it

    def taken_as_it_is(self, key: str) -> bool:
        """Whether a reference has no type of its own."""
        return key in self._owner(key).untyped

    def converted(self, key: str, value: Any) -> Any:
        """What a plain value becomes at `key`; errors as `Part.converted`."""
        return self._owner(key).converted(key, value)

    def select(self, key: str, patch: Mapping[str, Any]) -> Any:
        """What OmegaConf says; slow, and in its own words where it cannot."""
        values = {name: (value, _get(self.raw, self.leaves[name])) for name, value in patch.items()}
        return select(self._config, key, values)

    @cached_property
    def _config(self) -> DictConfig:
        return self._whole()

    def _owner(self, key: str) -> Part:
        return self._owners[key.split(".")[0]]

    def _owner_leaves(self, key: str) -> Mapping[str, Place]:
        section = key.split(".")[0]
        return self._owners[section].leaves[section] if section in self._owners else {}


class _Point:
    """References of one point, each resolved once."""

    def __init__(self, base: Base, settings: Settings, patch: Mapping[str, Any]) -> None:
        self._base, self._settings, self._patch = base, settings, patch
        self._known: dict[str, Any] = {}
        self._open: set[str] = set()

    def value(self, key: str) -> Any:
        """The resolved value of a leaf."""
        if key in self._patch or not self._base.refers(key):
            return _get(self._settings, self._base.leaves[key])
        if key not in self._known:
            if key in self._open:  # a circle: OmegaConf words it
                return self._base.select(key, self._patch)
            self._open.add(key)
            self._known[key] = self._resolved(key)
        return self._known[key]

    def _resolved(self, key: str) -> Any:
        found = self._source(str(_get(self._base.raw, self._base.leaves[key])))
        if found is None:
            return self._base.select(key, self._patch)
        if self._base.taken_as_it_is(key):
            return found[0]
        if isinstance(found[0], list | dict):
            return self._base.select(key, self._patch)
        try:
            return self._base.converted(key, found[0])
        except ValueError:
            return self._base.select(key, self._patch)

    def _source(self, text: str) -> tuple[Any] | None:
        """What a text with plain references leads to, or None where Hydra's resolvers are needed."""
        match = REFERENCE.fullmatch(text)
        if match and match[1] in self._base.leaves:
            return (self.value(match[1]),)
        if match:
            place = self._base.plain_section(match[1])
            return None if place is None else (_copy(_get(self._settings, place)),)
        names = REFERENCE.findall(text)
        if text.count("${") != len(names) or "\\" in text or any(n not in self._base.leaves for n in names):
            return None
        values = {name: self.value(name) for name in names}
        if any(type(value) not in (str, int) for value in values.values()):
            return None
        return (REFERENCE.sub(lambda found: str(values[found[1]]), text),)


def same(one: Any, other: Any) -> bool:
    """Whether two plain values are alike in types, signs and order too: 1, 1.0 and True are three values."""
    return repr(one) == repr(other)


def select(config: DictConfig, key: str, values: Mapping[str, tuple[Any, Any]]) -> Any:
    """The plain value of `key` where `values` are set: dotted key -> (value, what to put back).

    Raises:
        ValueError: it cannot be resolved, or a value cannot stand where it is.
    """
    try:
        for name, (value, _) in values.items():
            OmegaConf.update(config, name, value, merge=True)
        if OmegaConf.is_missing(config, key):
            return "???"
        found = OmegaConf.select(config, key)
        is_node = isinstance(found, DictConfig | ListConfig)
        return OmegaConf.to_container(found, resolve=True) if is_node else found
    except OmegaConfBaseException as error:
        raise ValueError(explain(error, config)) from error
    finally:
        for name, (_, before) in values.items():
            OmegaConf.update(config, name, before, merge=True)


def _is_untyped(config: DictConfig, place: Place) -> bool:
    node: Any = config
    for part in place:
        node = node._get_node(part)
    return isinstance(node, AnyNode) and node._metadata.ref_type is Any


def _copy(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _copy(child) for key, child in node.items()}
    return [_copy(child) for child in node] if isinstance(node, list) else node


def _walk(node: Any, place: Place) -> Iterator[Place]:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if not children:
        yield place
    else:
        for key, child in children:
            yield from _walk(child, (*place, key))


def _dotted(place: Place) -> str:
    return ".".join(str(part) for part in place)


def _get(node: Any, place: Place) -> Any:
    for part in place:
        node = node[part]
    return node


def _set(node: Any, place: Place, value: Any) -> None:
    _get(node, place[:-1])[place[-1]] = value
