"""What cells need before they can run, in words; and the head search in front of them."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from sparsemm.config import Settings, build, build_model, build_task
from sparsemm.needs import Need
from sparsemm.sweep.cells import Cell
from sparsemm.sweep.digests import canonical
from sparsemm.sweep.errors import UnusableConfiguration


def needs_of(cells: Iterable[Cell]) -> list[Need]:
    """Everything that is missing, once."""
    return sorted(set(chain.from_iterable(cell.needs for cell in cells)))


def told(cells: Iterable[Cell], arguments: Sequence[str], own_grid: Mapping[str, str]) -> list[Cell]:
    """The cells, whose needs name the command that brings everything of this grid."""
    grid = {f"{key}={value}" for key, value in own_grid.items()}
    command = shlex.join(["sparsemm", "prefetch", *(one for one in arguments if one not in grid)])

    def tell(need: Need) -> Need:
        return replace(need, how=command) if need.how.startswith("sparsemm prefetch") else need

    return [replace(cell, needs=tuple(map(tell, cell.needs))) if cell.needs else cell for cell in cells]


def require(cells: Sequence[Cell], but: str | None = None) -> None:
    """Raise UnusableConfiguration where anything is missing, but what is of this kind."""
    refuse([need for need in needs_of(cells) if need.kind != but])


def refuse(needs: Sequence[Need]) -> None:
    """Raise UnusableConfiguration with what is missing, if anything is."""
    if len(needs) == 1:
        raise UnusableConfiguration(f"Nothing was started: {needs[0]}")
    if needs:
        said = [f"Nothing was started: {len(needs)} things are missing:", *lines(needs)]
        raise UnusableConfiguration("\n".join(said))


def lines(needs: Iterable[Need]) -> list[str]:
    """What is missing, and how to get it; said once of things that come the same way."""
    ways: dict[str, list[str]] = {}
    for need in needs:
        ways.setdefault(need.how, []).append(need.what)
    said = []
    for how, whats in ways.items():
        said += [f"  {what}" for what in whats[:-1]] + [f"  {whats[-1]}: {how}"]
    return said


def prefetch(cells: Sequence[Cell], sources: Iterable[Settings], output: Path) -> None:
    """Bring the weights and the data that are named by hub id; images, too, where heads are to be found."""
    from sparsemm.prefetch import PrefetchFailed, run_prefetch

    models, tasks = dict[str, Settings](), dict[str, Settings]()
    for cell in cells:
        models.setdefault(canonical(cell.settings["model"]), cell.settings)
        tasks.setdefault(canonical(cell.settings["task"]), cell.settings)
    adapters = [build_model(settings) for settings in models.values()]
    datasets = [found for settings in tasks.values() for found in build_task(settings).datasets()]
    if any(need.kind == "heads" for need in needs_of(cells)):
        datasets += [found for source in sources for found in build(source).datasets()]
    try:
        run_prefetch(adapters, list(dict.fromkeys(datasets)), output)
    except PrefetchFailed as error:
        raise UnusableConfiguration(str(error)) from error
