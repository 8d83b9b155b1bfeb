"""The head search as jobs: in front of the cells that lack head scores, or on its own (`sparsemm heads`)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsemm.config import Settings, build, check_target
from sparsemm.needs import Need
from sparsemm.paths import absolute, resolve
from sparsemm.sweep.cells import Cell
from sparsemm.sweep.compose import Composer
from sparsemm.sweep.errors import UnusableConfiguration


@dataclass(frozen=True)
class Search:
    """The search of one model's visual heads.

    Args:
        model: settings of the model.
        data: settings of the images.
        samples: how many images are read.
        device: cpu, cuda or auto.
        out: the head-score file.
    """

    model: Settings
    data: Settings
    samples: int
    device: str
    out: str

    def check(self) -> tuple[Need, ...]:
        """What must be brought before it can run.

        Raises:
            ValueError: settings that no search could use.
        """
        if self.samples < 1:
            raise ValueError(f"samples={self.samples}: must be at least 1. The paper uses 1000.")
        for section, node in (("model", self.model), ("data", self.data)):
            check_target(section, node)
        adapter, source = build(self.model), build(self.data)
        needs = (*adapter.needs(), *source.needs())
        if not adapter.needs():
            adapter.check()
        return needs

    def run(self, git: Mapping[str, Any]) -> None:
        """Search and write the file; a search that was stopped goes on where it stopped."""
        from sparsemm.heads.search import find_heads
        from sparsemm.sweep.worker import find_device

        device, out = find_device(self.device), resolve(self.out)
        out.parent.mkdir(parents=True, exist_ok=True)
        find_heads(build(self.model), build(self.data), self.samples, out, device, dict(git))


def points(composer: Composer, arguments: Sequence[str]) -> list[Settings]:
    """The settings of every model that is asked for.

    Raises:
        UnusableConfiguration: an override that cannot be used.
    """
    found: dict[str, Settings] = {}
    try:
        for point in composer.points(arguments):
            if point.settings is None:
                raise ValueError(point.error)
            found.setdefault(point.settings["out"], point.settings)
    except ValueError as error:
        raise UnusableConfiguration(f"Nothing was started: {error}") from error
    return list(found.values())


def make_search(settings: Settings, out: str | None = None) -> Search:
    """The search that a composed configuration describes.

    Raises:
        UnusableConfiguration: smoke=true, where there is nothing to find.
    """
    if settings["smoke"]:
        raise UnusableConfiguration("smoke=true: a random model reads nothing. Leave smoke out.")
    place = absolute(out or settings["out"])
    return Search(
        settings["model"], settings["data"], settings["samples"], settings["engine"]["device"], place
    )


def searches_for(cells: Iterable[Cell], settings: Settings) -> list[Search]:
    """One search per head-score file that the cells lack, with the data that `settings` choose."""
    found = {}
    for cell in cells:
        for need in cell.needs:
            if need.kind == "heads":
                file = str(cell.settings["model"]["head_scores"])
                found[file] = make_search({**settings, "model": cell.settings["model"]}, file)
    return list(found.values())


def needs_of_searches(searches: Sequence[Search]) -> list[Need]:
    """What must be brought before the searches can run.

    Raises:
        UnusableConfiguration: settings that no search could use.
    """
    try:
        return sorted({need for search in searches for need in search.check()})
    except ValueError as error:
        raise UnusableConfiguration(f"Nothing was started: {error}") from error


def import_file(file: str, settings: Settings) -> str:
    """Convert a head-score file of the paper's code for the model, and say what it is.

    Raises:
        UnusableConfiguration: the model is not here, or the file is not its own.
    """
    from sparsemm.heads.compare import describe
    from sparsemm.heads.files import import_heads, load_head_scores

    adapter, out = build(settings["model"]), resolve(settings["out"])
    if needs := adapter.needs():
        raise UnusableConfiguration(f"heads import: {needs[0]}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        written = import_heads(resolve(file), out, adapter.shape(), adapter.content_id(), adapter.name)
    except ValueError as error:
        raise UnusableConfiguration(str(error)) from error
    return f"{out}: {written['data']}, {written['samples']} samples; {describe(load_head_scores(str(out)))}"


def compare_files(one: str, other: str) -> str:
    """How far two head-score files of one model agree, in words.

    Raises:
        ValueError: a file that cannot be read, or scores of other shapes.
    """
    from sparsemm.heads.compare import compare, describe
    from sparsemm.heads.files import load_head_scores

    scores = [load_head_scores(path) for path in (one, other)]
    found = compare(*scores)
    lines = [f"{path}: {describe(each)}" for path, each in zip((one, other), scores, strict=True)]
    lines.append(
        f"rank correlation {found.correlation:.3f}; of the best {found.heads} heads both name "
        f"{found.overlap:.0%}"
    )
    return "\n".join(lines)
