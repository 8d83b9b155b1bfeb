"""The head search as jobs: in front of the cells that lack head scores, or on its own (`sparsemm heads`)."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from sparsemm.config import Settings, build, check_target
from sparsemm.heads.files import folder_of, load_head_scores
from sparsemm.needs import Need
from sparsemm.paths import absolute, resolve
from sparsemm.sweep.cells import Cell
from sparsemm.sweep.compose import Composer
from sparsemm.sweep.digests import canonical
from sparsemm.sweep.errors import UnusableConfiguration
from sparsemm.sweep.head_files import head_files
from sparsemm.sweep.progress import progress


@dataclass(frozen=True)
class Search:
    """The search of one model's visual heads.

    Args:
        model: settings of the model.
        data: settings of the images.
        samples: how many images are read.
        device: cpu, cuda or auto.
        out: the head-score file.
        threads: of PyTorch on the CPU; None: its own choice.
        shard: which of how many jobs share the images; the one that ends last writes the file.
    """

    model: Settings
    data: Settings
    samples: int
    device: str
    out: str
    threads: int | None = None
    shard: tuple[int, int] = (0, 1)

    def check(self) -> tuple[Need, ...]:
        """What must be brought before it can run.

        Raises:
            ValueError: settings that no search could use.
        """
        if self.samples < 1:
            raise ValueError(f"samples={self.samples}: must be at least 1. The paper uses 1000.")
        for section, node in (("model", self.model), ("data", self.data)):
            check_target(section, node)
        folder_of(Path(self.out))
        adapter, source = build(self.model), build(self.data)
        needs = (*adapter.needs(), *source.needs())
        if not adapter.needs():
            adapter.check()
        return needs

    def parts(self, shards: int) -> list["Search"]:
        """The jobs that share this search."""
        return [replace(self, shard=(number, shards)) for number in range(shards)]

    def run(self, git: Mapping[str, Any], stop: Callable[[], bool] = lambda: False) -> None:
        """Search, write the file and its pictures; a search that was stopped goes on where it stopped.

        Args:
            git: the code that it was submitted with.
            stop: asked before every image; where it says so, this returns.
        """
        import torch

        from sparsemm.heads.report import illustrate, summary
        from sparsemm.heads.search import find_heads
        from sparsemm.sweep.worker import find_device

        if self.threads:
            torch.set_num_threads(self.threads)
        device, out = find_device(self.device), resolve(self.out)
        adapter, source = build(self.model), build(self.data)
        load = cache(lambda: adapter.load(device))
        bar = partial(progress, what=f"{adapter.name} reads", unit="image")
        shard = (self.shard[0], self.shard[1])  # a list, where it comes from a job file
        content = find_heads(adapter, source, self.samples, out, load, dict(git), shard, bar, stop)
        if content is None and stop():
            return
        if content is None:
            print(f"{out}: job {self.shard[0]} of {self.shard[1]} is done; the last one writes the file.")
            return
        print(summary(content, load_head_scores(str(out))))
        print("\n".join(map(str, [out, *illustrate(out, source, load)])))


def points(composer: Composer, arguments: Sequence[str]) -> list[Settings]:
    """The settings of every model that is asked for.

    Raises:
        UnusableConfiguration: an override that cannot be used, or two searches that would write one file.
    """
    found: dict[str, Settings] = {}
    for settings in _composed(composer, arguments):
        first = found.setdefault(settings["out"], settings)
        if any(first[key] != settings[key] for key in ("model", "data", "samples")):
            raise _clash(settings["out"])
    return list(found.values())


def sources(composer: Composer, arguments: Sequence[str]) -> list[Settings]:
    """The settings of every choice of images, whatever models there are.

    Raises:
        UnusableConfiguration: an override that cannot be used.
    """
    found: dict[str, Settings] = {}
    for settings in _composed(composer, arguments):
        found.setdefault(canonical([settings["data"], settings["samples"]]), settings)
    return list(found.values())


def _composed(composer: Composer, arguments: Sequence[str]) -> Iterator[Settings]:
    try:
        for point in composer.points(arguments):
            if point.settings is None:
                raise ValueError(point.error)
            yield point.settings
    except ValueError as error:
        raise UnusableConfiguration(f"Nothing was started: {error}") from error


def _clash(out: str) -> UnusableConfiguration:
    return UnusableConfiguration(
        f"Nothing was started: out={out}: two of these searches would write it. Run them one after the "
        "other, each with an out of its own."
    )


def make_search(settings: Settings, out: str | None = None) -> Search:
    """The search that a composed configuration describes.

    Raises:
        UnusableConfiguration: smoke=true, where there is nothing to find.
    """
    if settings["smoke"]:
        raise UnusableConfiguration("smoke=true: a random model reads nothing. Leave smoke out.")
    place = absolute(out or settings["out"])
    engine = settings["engine"]
    return Search(
        settings["model"], settings["data"], settings["samples"], engine["device"], place, engine["threads"]
    )


def searches_for(cells: Iterable[Cell], sources: Callable[[], Sequence[Settings]]) -> list[Search]:
    """One search per head-score file that the cells lack.

    Args:
        cells: that may lack some.
        sources: the settings that choose the images; asked only where a file is missing.

    Raises:
        UnusableConfiguration: two searches would write one file.
    """
    models: dict[str, Settings] = {}
    for cell in cells:
        for file in head_files(cell.settings):
            if resolve(file).is_file():
                continue
            model = cell.settings["model"]
            if models.setdefault(file, model) != model:
                raise _clash(file)
    chosen = sources() if models else []
    if len(chosen) > 1:
        raise _clash(next(iter(models)))
    return [make_search({**chosen[0], "model": model}, file) for file, model in models.items()]


def needs_of_searches(searches: Sequence[Search]) -> list[Need]:
    """What must be brought before the searches can run.

    Raises:
        UnusableConfiguration: settings that no search could use.
    """
    try:
        return sorted({need for search in searches for need in search.check()})
    except ValueError as error:
        raise UnusableConfiguration(f"Nothing was started: {error}") from error


def agreement(settings: Sequence[Settings], claim: object, folder: Path) -> str:
    """How far the found files of every model agree, in words and pictures; '' without a claim about them.

    Args:
        settings: of the searches.
        claim: what the experiment says.
        folder: where the pictures go.
    """
    from sparsemm.heads.compare import HeadsClaim  # torch is slow to import, and most verbs need none
    from sparsemm.heads.report import compare_files

    if not isinstance(claim, HeadsClaim):
        return ""
    files: dict[str, list[str]] = {}
    for one in settings:
        files.setdefault(one["model"]["name"], []).append(absolute(one["out"]))
    parts = [claim.title, claim.sentence]
    for model, paths in files.items():
        name = "figure.png" if len(files) == 1 else f"figure-{model}.png"
        parts.append(compare_files(paths, folder / name))
    return "\n".join(parts) + "\n"


def import_file(file: str, settings: Settings) -> str:
    """Convert a head-score file of the paper's code for the model, and say what it is.

    Raises:
        UnusableConfiguration: the model is not here, or the file is not its own.
    """
    from sparsemm.heads.files import import_heads
    from sparsemm.heads.report import illustrate, summary

    adapter, out = build(settings["model"]), resolve(settings["out"])
    if needs := adapter.needs():
        raise UnusableConfiguration(f"heads import: {needs[0]}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        written = import_heads(resolve(file), out, adapter.shape(), adapter.content_id(), adapter.name)
    except ValueError as error:
        raise UnusableConfiguration(str(error)) from error
    paths = "\n".join(map(str, [out, *illustrate(out)]))
    return f"{written['data']}\n{summary(written, load_head_scores(str(out)))}\n{paths}"


def compare_files(files: Sequence[str], picture: str | None = None) -> str:
    """How far head-score files of one model agree, in words; `picture` gets their curves.

    Raises:
        ValueError: a file that cannot be read, or scores of other shapes.
    """
    from sparsemm.heads.report import compare_files

    return compare_files(list(files), Path(picture) if picture else None)
