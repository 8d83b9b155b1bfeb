"""What cells need before they can run, in words; and the head search in front of them."""

from collections.abc import Iterable, Sequence
from itertools import chain

from sparsemm.needs import Need
from sparsemm.sweep.cells import Cell
from sparsemm.sweep.errors import UnusableConfiguration


def needs_of(cells: Iterable[Cell]) -> list[Need]:
    """Everything that is missing, once."""
    return sorted(set(chain.from_iterable(cell.needs for cell in cells)))


def lines(needs: Sequence[Need]) -> list[str]:
    """What is missing and how to get it; things of one kind that come the same way share a line."""
    ways: dict[tuple[str, str], list[str]] = {}
    for need in needs:
        ways.setdefault((need.kind, need.how), []).append(need.what)
    return [f"  {', '.join(whats)}: {how}" for (_, how), whats in ways.items()]


def require(cells: Sequence[Cell]) -> None:
    """Raise UnusableConfiguration where anything is missing."""
    if needs := needs_of(cells):
        short = [f"Nothing was started: {len(needs)} things are missing:", *lines(needs)]
        raise UnusableConfiguration(
            "\n".join(short) if len(needs) > 1 else f"Nothing was started: {needs[0]}"
        )
