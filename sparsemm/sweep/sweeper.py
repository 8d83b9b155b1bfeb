"""What our Hydra sweeper does: the whole grid is composed and checked before anything starts."""

import contextlib
import io
import secrets
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import Any

from hydra.core.plugins import Plugins
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from sparsemm.results.store import Store
from sparsemm.sweep import plan, prerequisites, search, status
from sparsemm.sweep.cells import Cell
from sparsemm.sweep.claims import experiment_claim, refuse_claim
from sparsemm.sweep.compose import Composer
from sparsemm.sweep.errors import CellsFailed, UnusableConfiguration
from sparsemm.sweep.grid import Grid, make_grid
from sparsemm.sweep.jobs import (
    SweepRecord,
    git_state,
    group_into_jobs,
    is_grid,
    labels_of,
    last_sweep,
    quoted,
    report_name,
    sweep_id,
    write_jobs,
    write_search,
)
from sparsemm.sweep.published import mark_published
from sparsemm.sweep.status import Labels


@dataclass(frozen=True)
class Subject:
    """What status and report are about."""

    name: str  # of the report
    experiment: str | None
    labels: Labels
    overrides: Sequence[str]


@dataclass
class Sweep:
    """One verb over one grid."""

    config: DictConfig
    context: HydraContext
    task_function: TaskFunction
    arguments: list[str]
    fast: bool = True
    store: Store = field(init=False)

    def __post_init__(self) -> None:
        self.store = Store(Path(self.config.output))

    def act(self, action: str) -> list[Any]:
        """Carry out run, plan, prefetch, heads, status or report.

        Raises:
            UnusableConfiguration: nothing was started.
            CellsFailed: cells without a result.
        """
        actions = {
            "run": self.run,
            "plan": self.plan,
            "prefetch": self.prefetch,
            "heads": self.heads,
            "status": self.status,
            "report": self.report,
        }
        if action not in actions:
            raise UnusableConfiguration(
                f"hydra.sweeper.action={action}: must be one of {', '.join(actions)}. Use the verbs."
            )
        refuse_claim(self.experiment, action)
        return actions[action]() or []

    @property
    def experiment(self) -> str | None:
        """The experiment that was chosen."""
        choice = self.config.hydra.runtime.choices.get("experiment")
        return None if choice is None else str(choice)

    @cached_property
    def grid(self) -> Grid:
        """Every cell, checked."""
        return make_grid(self._composer(), self.arguments)

    def _composer(self) -> Composer:
        return Composer(self.context.config_loader, self.config, self.fast)

    def plan(self) -> None:
        """Print the cells, the jobs and the time that they need."""
        with _reading():
            print(plan.describe(self.store, self.grid.cells, self.grid.points, self.shards))

    @property
    def shards(self) -> int:
        """How many jobs share the samples of a task."""
        if self.config.shards < 1:
            raise UnusableConfiguration(f"shards={self.config.shards}: must be at least 1. Set shards.")
        return int(self.config.shards)

    def prefetch(self) -> None:
        """Bring the weights and the data of the grid to this machine's disk."""
        prerequisites.prefetch(self.grid.cells, self.store.root)

    def heads(self) -> None:
        """Search the visual heads of the models, or import or compare head-score files."""
        points = search.points(self._composer(), self.arguments)
        if self.config.import_file is not None:
            print(search.import_file(str(self.config.import_file), points[0]))
            return
        self._search([search.make_search(point) for point in points])
        claim = experiment_claim(self.experiment)
        print(search.agreement(points, claim, self.store.reports / self._name), end="")

    def _search(self, searches: Sequence[search.Search]) -> None:
        """Run head searches as jobs, and wait for them.

        Raises:
            UnusableConfiguration: something else is missing; nothing was started.
            CellsFailed: a search stopped.
        """
        prerequisites.refuse(search.needs_of_searches(searches))
        sweep, git = sweep_id("heads", secrets.token_hex(2)), git_state()
        parts = [part for one in searches for part in one.parts(self.shards)]
        files = [write_search(self.store, sweep, number, part, git) for number, part in enumerate(parts)]
        returns = self._launch_files(files, str(self.store.sweeps / sweep))
        stopped = sum(not _returned(number, one) for number, one in enumerate(returns))
        if stopped:
            raise CellsFailed("a head search stopped. Run the same command again: it goes on where it was.")

    def status(self) -> None:
        """Print the state of the grid, or of the last sweep where no grid is given."""
        if subject := self._subject():
            with _reading():
                status.show(self.store, subject.name, subject.labels, watch=bool(self.config.watch))

    def report(self) -> None:
        """Print and write the table of the grid, or of the last sweep where no grid is given."""
        if subject := self._subject():
            print(self._report(subject))

    def run(self) -> list[Any]:
        """Run what has no result yet, then show the table."""
        cells, points = self.grid.cells, self.grid.points
        with _reading():
            done = self.store.finished(cell.fingerprint for cell in cells)
        left = [cell for cell in cells if cell.fingerprint not in done]
        jobs = group_into_jobs(left)
        print(plan.headline(len(cells), len(done), len(jobs) * self.shards, points), flush=True)
        if self.config.find_heads and (
            searches := search.searches_for(left, search.points(self._composer(), self.arguments)[0])
        ):
            prerequisites.require(left, but="heads")
            self._search(searches)
            self.__dict__.pop("grid")  # the cells get other fingerprints with the scores that are there now
            return self.run()
        prerequisites.require(left)
        returns = self._launch(group_into_jobs(mark_published(self._composer(), left)))
        self._conclude(returns)
        return returns

    def _launch(self, jobs: Sequence[Sequence[Cell]]) -> list[Any]:
        subject = self._own_subject()
        record = SweepRecord(
            id=sweep_id(subject.name, secrets.token_hex(2)),
            name=subject.name,
            overrides=self.arguments,
            experiment=subject.experiment,
            cells=[{"fingerprint": name, "label": label} for name, label in subject.labels.items()],
            git=git_state(),
            created=time.time(),
        )
        files = write_jobs(self.store, record, jobs, self.shards)
        return self._launch_files(files, str(self.store.sweeps / record.id)) if files else []

    def _launch_files(self, files: Sequence[Path], folder: str) -> list[Any]:
        with open_dict(self.config):
            self.config.hydra.sweep.dir = folder
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.context, task_function=self.task_function, config=self.config
        )
        choice = self.config.hydra.runtime.choices["hydra/launcher"]
        overrides = [
            [f"job_file={quoted(str(file))}", f"hydra.sweep.dir={quoted(folder)}", f"hydra/launcher={choice}"]
            for file in files
        ]
        return list(launcher.launch(overrides, initial_job_idx=0))

    def _conclude(self, returns: Sequence[Any]) -> None:
        broken = sum(not _returned(number, one) for number, one in enumerate(returns))
        subject = self._own_subject()
        labels = subject.labels
        with _reading():
            done = self.store.finished(labels)
        missing = [name for name in labels if name not in done]
        failures = self.store.failures(missing)
        if done:
            print(self._report(subject))
        for line in status.failure_lines(failures, labels):
            print(line, file=sys.stderr)
        self._next_steps(0 if broken else len(missing) - len(failures))
        if failures or broken:
            raise CellsFailed(
                f"{len(failures)} of {len(labels)} cells failed"
                + (f", {len(missing) - len(failures)} have no result: a job stopped" if broken else "")
                + ". Run the same command again: finished cells are kept."
            )

    def _next_steps(self, open_cells: int) -> None:
        where = "".join(f" {quote(text)}" for text in self.arguments if text.startswith("output="))
        if open_cells:
            cells = plan.count(open_cells, "cell")
            print(f"{cells} without a result yet: submitted, or run by another process.")
        other = "components" if self.experiment == "quickstart" else "quickstart"
        program = status.program()
        print("Next:")
        print(f"  {program} status{where}")
        print(f"  {program} report{where}")
        print(f"  {program} run +experiment={other}{where}")

    def _report(self, subject: Subject) -> str:
        from sparsemm.results.report import write_report
        from sparsemm.sweep.pictures import material_of

        claim = experiment_claim(subject.experiment)
        beside = labels_of(self.store, claim.beside) if claim and claim.beside else {}
        labels, folder = list(subject.labels.values()), self.store.reports / subject.name
        found, found_beside = self._results(subject.labels), self._results(beside)
        material = material_of(self.store, found, subject.overrides)
        return str(write_report(subject.name, found, labels, folder, claim, found_beside, material))

    def _results(self, labels: Labels) -> list[dict[str, Any]]:
        """The finished results of some cells, under the labels that they have here."""
        with _reading():
            results = self.store.results(labels)
        return [{**result, "label": labels[result["fingerprint"]]} for result in results]

    @property
    def _name(self) -> str:
        own_grid = self.config.hydra.sweeper.params if self.experiment else None
        return report_name(self.experiment, self.arguments, own_grid or {})

    def _own_subject(self) -> Subject:
        labels = {cell.fingerprint: cell.label for cell in self.grid.cells}
        return Subject(self._name, self.experiment, labels, self.arguments)

    def _subject(self) -> Subject | None:
        """The grid, or without one the last sweep."""
        if any(is_grid(argument) for argument in self.arguments):
            return self._own_subject()
        record = last_sweep(self.store)
        if record is None:
            start = f"{status.program()} run +experiment=quickstart"
            print(f"There is no sweep in {self.store.root} yet. Start one: {start}")
            return None
        labels = {entry["fingerprint"]: entry["label"] for entry in record.cells}
        return Subject(record.name, record.experiment, labels, record.overrides)


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """The store's own complaint, such as a result of a newer version, stops the command."""
    try:
        yield
    except ValueError as error:
        raise UnusableConfiguration(str(error)) from error


def _returned(number: int, returned: Any) -> bool:
    """Whether a job came to its end; where it did not, say why."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # Hydra repeats the overrides there
            _ = returned.return_value
        return True
    except (OSError, ValueError) as error:
        print(f"job {number} stopped: {error}", file=sys.stderr)
    except Exception:
        print(f"job {number} stopped:\n{traceback.format_exc()}", file=sys.stderr)
    return False
