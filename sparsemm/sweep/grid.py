"""A grid: every cell of some overrides, composed and checked before anything starts."""

from collections.abc import Sequence
from dataclasses import dataclass

from sparsemm.sweep.cells import Cell, CellMaker, with_distinct_labels
from sparsemm.sweep.compose import Composer
from sparsemm.sweep.errors import UnusableConfiguration

SHOWN = 8  # kinds of errors listed


@dataclass(frozen=True)
class Grid:
    """The cells of a grid, without duplicates, in the grid's order."""

    cells: list[Cell]
    points: int  # combinations of overrides


def make_grid(composer: Composer, arguments: Sequence[str]) -> Grid:
    """Compose and check every point.

    Raises:
        UnusableConfiguration: any point is invalid; says which and why.
    """
    maker, cells = CellMaker(), dict[str, Cell]()
    errors: dict[str, list[tuple[str, ...]]] = {}
    points = 0
    try:
        for point in composer.points(arguments):
            points += 1
            try:
                if point.settings is None:
                    raise ValueError(point.error)
                cell = maker.cell(point.settings)
                cells.setdefault(cell.fingerprint, cell)
            except ValueError as error:
                errors.setdefault(str(error), []).append(point.overrides)
    except ValueError as error:
        raise UnusableConfiguration(f"Nothing was started: {error}") from error
    if errors:
        raise UnusableConfiguration(_summary(errors, points))
    return Grid(with_distinct_labels(list(cells.values())), points)


def _summary(errors: dict[str, list[tuple[str, ...]]], points: int) -> str:
    if points == 1:
        return f"Nothing was started: {next(iter(errors))}"
    bad = sum(map(len, errors.values()))
    lines = [f"{bad} of {points} cells are invalid, nothing was started:"]
    for message, where in list(errors.items())[:SHOWN]:
        lines.append(f"  {message} (in {len(where)} cells, first: {' '.join(where[0])})")
    if len(errors) > SHOWN:
        lines.append(f"  and {len(errors) - SHOWN} more kinds of errors")
    return "\n".join(lines)
