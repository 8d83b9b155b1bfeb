"""What the paper's numbers say, as checks that any numbers can pass or fail: the paper's own and ours."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

Place = tuple[str, Any]  # method, column; column None: the full cache
Pair = tuple[Place, Place]
Sum = tuple[tuple[float, Place], ...]  # weighted scores, added


class Numbers(ABC):
    """The scores of one model and benchmark."""

    @abstractmethod
    def score(self, place: Place) -> float:
        """Return the stored score; every place that a check needs has one."""

    @abstractmethod
    def positive(self, sums: Sequence[Sum]) -> list[bool]:
        """Say of each sum whether it is significantly above zero."""

    def below(self, pairs: Sequence[Pair]) -> list[bool]:
        """Say of each pair whether its first place is significantly below its second."""
        return self.positive([((1.0, other), (-1.0, one)) for one, other in pairs])

    @abstractmethod
    def describe(self, place: Place) -> str:
        """Return the place and its score as prose: `SnapKV at 64 (0.6240)`."""


class Check(ABC):
    """What must hold."""

    @abstractmethod
    def needs(self) -> tuple[Place, ...]:
        """Return the places without which nothing can be said."""

    @abstractmethod
    def failures(self, numbers: Numbers) -> list[str]:
        """Return where it does not hold; empty: it holds."""


@dataclass(frozen=True)
class NotBelow(Check):
    """No pair's first place is significantly below its second."""

    pairs: tuple[Pair, ...]

    def needs(self) -> tuple[Place, ...]:
        """Return the places of all pairs."""
        return tuple(dict.fromkeys(chain.from_iterable(self.pairs)))

    def failures(self, numbers: Numbers) -> list[str]:
        """Return the pairs that fail."""
        return [
            f"{numbers.describe(one)} is below {numbers.describe(other)}"
            for (one, other), below in zip(self.pairs, numbers.below(self.pairs), strict=True)
            if below
        ]


@dataclass(frozen=True)
class Above(Check):
    """Every pair's first place is significantly above its second."""

    pairs: tuple[Pair, ...]

    def needs(self) -> tuple[Place, ...]:
        """Return the places of all pairs."""
        return tuple(dict.fromkeys(chain.from_iterable(self.pairs)))

    def failures(self, numbers: Numbers) -> list[str]:
        """Return the pairs that fail."""
        turned = [(other, one) for one, other in self.pairs]
        return [
            f"{numbers.describe(one)} is not significantly above {numbers.describe(other)}"
            for (one, other), above in zip(self.pairs, numbers.below(turned), strict=True)
            if not above
        ]


@dataclass(frozen=True)
class Keeps(Check):
    """Every place has significantly more than this share of another's score."""

    places: tuple[Place, ...]
    of: Place
    share: float

    def needs(self) -> tuple[Place, ...]:
        """Return the places, and what they are measured by."""
        return (*self.places, self.of)

    def failures(self, numbers: Numbers) -> list[str]:
        """Return the places that fall short."""
        whole = numbers.score(self.of)
        if not whole:
            return [f"{numbers.describe(self.of)}: nothing to keep"]
        kept = numbers.positive([((1.0, place), (-self.share, self.of)) for place in self.places])
        return [
            self._said(numbers, place, numbers.score(place) / whole)
            for place, enough in zip(self.places, kept, strict=True)
            if not enough
        ]

    def _said(self, numbers: Numbers, place: Place, share: float) -> str:
        chance = f", not significantly above {100 * self.share:g} %" if share >= self.share else ""
        return f"{numbers.describe(place)} is {100 * share:.1f} % of {numbers.describe(self.of)}{chance}"


@dataclass(frozen=True)
class Widens(Check):
    """One method's lead over another is significantly larger in one column than in another."""

    method: str
    rival: str
    here: Any  # the column with the larger lead
    than: Any

    def needs(self) -> tuple[Place, ...]:
        """Return both methods in both columns."""
        return tuple(
            (method, column) for column in (self.here, self.than) for method in (self.method, self.rival)
        )

    def failures(self, numbers: Numbers) -> list[str]:
        """Return both leads where the first is not significantly the larger."""
        widened = tuple(zip((1.0, -1.0, -1.0, 1.0), self.needs(), strict=True))
        if numbers.positive([widened]) == [True]:
            return []
        a, b, c, d = (numbers.describe(place) for place in self.needs())
        chance = "significantly " * (sum(weight * numbers.score(place) for weight, place in widened) > 0)
        return [f"{a} leads {b} by no {chance}more than {c} leads {d}"]


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A sentence that the paper's numbers support, and how it is checked per model and benchmark."""

    sentence: str
    models: tuple[str, ...]
    benchmarks: tuple[str, ...]
    check: Check


def pairs(method: str, rivals: Sequence[str], columns: Sequence[Any]) -> tuple[Pair, ...]:
    """Pair a method with its rivals in every column."""
    return tuple(((method, column), (rival, column)) for column in columns for rival in rivals)
