"""Combinations of choices put together from parts: 13 compositions for 3 models, 5 tasks, 6 methods.

Where each choice changes sections of its own, a combination is the first point's configuration with those
sections replaced. One combination is composed in full as a check; where it differs, all are composed in full.
"""

import copy
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

Texts = tuple[str, ...]


class Assembler:
    """Configurations of the combinations of `axes`, the texts that each override may have."""

    def __init__(self, compose: Callable[[Texts], DictConfig], axes: Sequence[Sequence[str]]) -> None:
        self._compose = compose
        self._first, self._last = (tuple(axis[place] for axis in axes) for place in (0, -1))
        self._known: dict[Texts, tuple[DictConfig, dict[str, Any]]] = {}

    def config(self, texts: Texts) -> DictConfig:
        """The configuration of one combination; raises what composing it raises."""
        if len(texts) == len(self._first) and len(self._differing(texts)) > 1 and self._separable:
            found = self._assembled(texts)
            if found is not None:
                return found
        return self._compose(texts)

    @cached_property
    def _separable(self) -> bool:
        if len(self._differing(self._last)) < 2:
            return False
        found = self._assembled(self._last)
        whole = self._compose(self._last)
        return found is not None and _plain(found) == _plain(whole)

    def _assembled(self, texts: Texts) -> DictConfig | None:
        changed: dict[str, Any] = {}
        for place in self._differing(texts):
            part = self._part((*self._first[:place], texts[place], *self._first[place + 1 :]))
            if part.keys() & changed.keys():
                return None
            changed |= part
        config = copy.deepcopy(self._parts(self._first)[0])
        with read_write(config), open_dict(config):
            for key, node in changed.items():
                config[key] = node
        return config

    def _part(self, texts: Texts) -> dict[str, Any]:
        """The sections in which a combination differs from the first."""
        config, plain = self._parts(texts)
        _, first = self._parts(self._first)
        if plain.keys() != first.keys():
            return dict.fromkeys((*plain, *first))  # a key more or less: nothing can be said of the others
        return {key: config._get_node(key) for key in plain if plain[key] != first[key]}

    def _parts(self, texts: Texts) -> tuple[DictConfig, dict[str, Any]]:
        if texts not in self._known:
            config = self._compose(texts)
            self._known[texts] = (config, _plain(config))
        return self._known[texts]

    def _differing(self, texts: Texts) -> list[int]:
        return [
            place for place, (one, first) in enumerate(zip(texts, self._first, strict=True)) if one != first
        ]


def _plain(config: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
