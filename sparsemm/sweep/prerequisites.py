"""What cells need before they can run, in words; and the head search in front of them."""

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from sparsemm.config import build_model, build_task
from sparsemm.needs import Need
from sparsemm.sweep.cells import Cell
from sparsemm.sweep.digests import canonical
from sparsemm.sweep.errors import UnusableConfiguration


def needs_of(cells: Iterable[Cell]) -> list[Need]:
    """Everything that is missing, once."""
    return sorted(set(chain.from_iterable(cell.needs for cell in cells)))


def require(cells: Sequence[Cell], but: str | None = None) -> None:
    """Raise UnusableConfiguration where anything is missing, but what is of this kind."""
    refuse([need for need in needs_of(cells) if need.kind != but])


def refuse(needs: Sequence[Need]) -> None:
    """Raise UnusableConfiguration with what is missing, if anything is."""
    if len(needs) == 1:
        raise UnusableConfiguration(f"Nothing was started: {needs[0]}")
    if needs:
        lines = [f"Nothing was started: {len(needs)} things are missing:", *(f"  {need}" for need in needs)]
        raise UnusableConfiguration("\n".join(lines))


def prefetch(cells: Iterable[Cell], output: Path) -> None:
    """Bring the weights and the data that the cells' models and tasks name by hub id."""
    from sparsemm.prefetch import PrefetchFailed, run_prefetch

    models, tasks = {}, {}
    for cell in cells:
        models.setdefault(canonical(cell.settings["model"]), cell.settings)
        tasks.setdefault(canonical(cell.settings["task"]), cell.settings)
    adapters = [build_model(settings) for settings in models.values()]
    datasets = [found for settings in tasks.values() for found in build_task(settings).datasets()]
    try:
        run_prefetch(adapters, list(dict.fromkeys(datasets)), output)
    except PrefetchFailed as error:
        raise UnusableConfiguration(str(error)) from error
