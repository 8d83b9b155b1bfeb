"""Combinations of choices put together from parts: 13 compositions for 3 models, 5 tasks, 6 methods.

Where each choice changes sections of its own, a combination is the first point's configuration with those
sections replaced. One combination is composed in full as a check; where it differs, all are composed in full.
So they are where a file names another by two choices at once: that may concern any one combination.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial

from omegaconf import DictConfig, open_dict, read_write

from sparsemm.sweep.resolve import Base, Part, same

Texts = tuple[str, ...]


class Assembler:
    """Configurations of combinations.

    Args:
        compose: one of them in full.
        axes: the texts that each override may have.
        together: whether some file that `compose` has read so far depends on several choices together.
    """

    def __init__(
        self,
        compose: Callable[[Texts], DictConfig],
        axes: Sequence[Sequence[str]],
        together: Callable[[], bool],
    ) -> None:
        self._compose, self._together = compose, together
        self._first, self._last = (tuple(axis[place] for axis in axes) for place in (0, -1))
        self._known: dict[Texts, Part] = {}

    def base(self, texts: Texts) -> Base:
        """The configuration of one combination; raises what composing it raises."""
        if len(texts) == len(self._first) and len(self._differing(texts)) > 1 and self._separable:
            found = self._assembled(texts)
            if found is not None and not self._together():
                return found
        return Base.of(self._part(texts))

    @cached_property
    def _separable(self) -> bool:
        if len(self._differing(self._last)) < 2:
            return False
        found = self._assembled(self._last)
        return found is not None and same(found.raw, self._part(self._last).raw)

    def _assembled(self, texts: Texts) -> Base | None:
        first = self._part(self._first)
        changed: dict[str, Part] = {}
        for place in self._differing(texts):
            part = self._part((*self._first[:place], texts[place], *self._first[place + 1 :]))
            if part.raw.keys() != first.raw.keys():
                return None  # a key more or less: nothing can be said of the others
            own = {key: part for key, owner in part.owners.items() if owner is part}
            if own.keys() & changed.keys():
                return None
            changed |= own
        return Base({**first.owners, **changed}, partial(_whole, first, changed))

    def _part(self, texts: Texts) -> Part:
        if texts not in self._known:
            first = None if texts == self._first else self._part(self._first)
            self._known[texts] = Part(self._compose(texts), first)
        return self._known[texts]

    def _differing(self, texts: Texts) -> list[int]:
        return [
            place for place, (one, first) in enumerate(zip(texts, self._first, strict=True)) if one != first
        ]


def _whole(first: Part, changed: Mapping[str, Part]) -> DictConfig:
    config = copy.deepcopy(first.config)
    with read_write(config), open_dict(config):
        for key, part in changed.items():
            config[key] = part.config._get_node(key)
    return config
