"""What our Hydra sweeper does: the whole grid is composed and checked before anything starts."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import Any

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from sparsemm.results.store import Store
from sparsemm.sweep import again, plan, prerequisites, search, status
from sparsemm.sweep.cells import Cell
from sparsemm.sweep.claims import experiment_claim, refuse_claim
from sparsemm.sweep.compose import Composer
from sparsemm.sweep.errors import CellsFailed, UnusableConfiguration
from sparsemm.sweep.grid import Grid, make_grid
from sparsemm.sweep.jobs import group_into_jobs, is_grid, last_sweep, report_name
from sparsemm.sweep.launching import Launching, came_to_its_end
from sparsemm.sweep.staleness import left_behind
from sparsemm.sweep.starting import start_cells, start_searches
from sparsemm.sweep.status import Subject
from sparsemm.sweep.tracking import tracking_of


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
        if self.store.root.exists() and not self.store.root.is_dir():
            raise UnusableConfiguration(f"output={self.store.root}: is a file. Give a folder.")

    def act(self, action: str) -> list[Any]:
        """Carry out run, plan, prefetch, heads, status or report.

        Raises:
            UnusableConfiguration: nothing was started.
            CellsFailed: cells without a result.
        """
        actions: dict[str, Callable[[], Any]] = {
            "run": self.run,
            "plan": self.plan,
            "prefetch": self.prefetch,
            "heads": self.heads,
            "status": self.status,
            "report": self.report,
            "sync": self.sync,
            "cancel": self.cancel,
            "retry": lambda: self.retry(False),
            "retry_all": lambda: self.retry(True),
        }
        if action not in actions:
            raise UnusableConfiguration(
                f"hydra.sweeper.action={action}: must be one of {', '.join(actions)}. Use the verbs."
            )
        refuse_claim(self.experiment, action)
        tracking_of(self.config)
        return actions[action]() or []

    @property
    def experiment(self) -> str | None:
        """The experiment that was chosen."""
        choice = self.config.hydra.runtime.choices.get("experiment")
        return None if choice is None else str(choice)

    @cached_property
    def grid(self) -> Grid:
        """Every cell, checked."""
        found = make_grid(self._composer(), self.arguments)
        return replace(found, cells=prerequisites.told(found.cells, self.arguments, self._own_grid))

    @property
    def _own_grid(self) -> Mapping[str, str]:
        """What the experiment itself sweeps."""
        return (self.config.hydra.sweeper.params if self.experiment else None) or {}

    def _composer(self) -> Composer:
        return Composer(self.context.config_loader, self.config, self.fast)

    def plan(self) -> None:
        """Print the cells, the jobs and the time that they need."""
        with _reading():
            print(plan.describe(self.store, self.grid.cells, self.grid.points, self.launching.sizing))

    @property
    def launching(self) -> Launching:
        """How jobs start."""
        return Launching(self.config, self.context, self.task_function)

    def prefetch(self) -> None:
        """Bring the weights and the data of the grid to this machine's disk."""
        sources = [point["data"] for point in search.sources(self._composer(), self.arguments)]
        prerequisites.prefetch(self.grid.cells, sources, self.store.root)

    def heads(self) -> None:
        """Search the visual heads of the models, or import or compare head-score files."""
        if (mode := self.config.tracking.mode) != "none":
            raise UnusableConfiguration(
                f"tracking={mode}: a head search has no copy in W&B. Leave tracking out: its page shows what "
                f"it found, and `sparsemm report tracking={mode}` has the head maps of the cells that use it."
            )
        points = search.points(self._composer(), self.arguments)
        if self.config.import_file is not None:
            print(search.import_file(str(self.config.import_file), points[0]))
            return
        self._search([search.make_search(point) for point in points])
        if not self.launching.waits:
            print("The file is there when the jobs have ended. squeue shows them, and scancel ends them.")
            return
        claim = experiment_claim(self.experiment)
        print(search.agreement(points, claim, self.store.reports / self._name), end="")

    def _search(self, searches: Sequence[search.Search]) -> None:
        """Run head searches as jobs, and wait for them.

        Raises:
            UnusableConfiguration: something else is missing; nothing was started.
            CellsFailed: a search stopped.
        """
        prerequisites.refuse(search.needs_of_searches(searches))
        plain = {"cache_backend": "auto", "decode": "eager"}  # what a search reads prompts with
        self.launching.check_machine((one.model, {**plain, "device": one.device}) for one in searches)
        returns = start_searches(self.store, self.launching, searches)
        stopped = sum(not came_to_its_end(number, one) for number, one in enumerate(returns))
        if stopped:
            raise CellsFailed("a head search stopped. Run the same command again: it goes on where it was.")

    def status(self) -> None:
        """Print the state of the grid, or of the last sweep where no grid is given."""
        if subject := self._subject():
            with _reading():
                found = status.show(self.store, subject.name, subject.labels, watch=bool(self.config.watch))
            self.launching.warn_of_changes(job for jobs in found.jobs.values() for job in jobs)
            if failed := found.count("failed"):
                raise CellsFailed(status.after_failure(failed, len(subject.labels)))

    def report(self) -> None:
        """Print and write the table of the grid, or of the last sweep where no grid is given."""
        if subject := self._subject():
            print(self._report(subject))

    def run(self, searched: bool = False) -> list[Any]:
        """Run what has no result yet, then show the table."""
        cells, points = self.grid.cells, self.grid.points
        with _reading():
            done = self.store.finished(cell.fingerprint for cell in cells)
        left = [cell for cell in cells if cell.fingerprint not in done]
        jobs = group_into_jobs(left)
        splits = self.launching.sizing.split(self.store, jobs)
        print(plan.headline(len(cells), len(done), sum(splits), points), flush=True)
        if queued := self.launching.in_queue(self.store, [cell.fingerprint for cell in left]):
            print(f"{plan.count(len(queued), 'cell')} in SLURM's queue already: left to those jobs.")
            jobs_there = [job for some in queued.values() for job in some]
            self.launching.warn_of_changes(jobs_there)
            if ending := {job.name for job in jobs_there if job.state == "COMPLETING"}:
                print(
                    f"{', '.join(sorted(ending))}: just ending. If cancelled, run this again once it is gone."
                )
            left = [cell for cell in left if cell.fingerprint not in queued]
        searches: list[search.Search] = []
        if self.config.find_heads and not searched:
            searches = search.searches_for(left, lambda: search.sources(self._composer(), self.arguments))
            if left_behind(left, [one.out for one in searches]):  # scores came since the grid was composed
                self.__dict__.pop("grid")
                return self.run()
        prerequisites.require(left, but="heads" if searches else None)
        self._check_machine(left)
        if searches and self.launching.waits:
            self._search(searches)
            self.__dict__.pop("grid")  # the cells get other fingerprints with the scores that are there now
            return self.run(searched=True)
        prerequisites.refuse(search.needs_of_searches(searches))
        returns = start_cells(self.store, self.launching, left, self._own_subject(), searches)
        self._conclude(returns, self._own_subject())
        return returns

    def retry(self, everything: bool) -> list[Any]:
        """Run again what failed, or all that has no result, of the grid or of the last sweep.

        Cells that were submitted are submitted again as they were, where no launcher is chosen.
        """
        subject = self._subject()
        if subject is None:
            return []
        with _reading():
            chosen, others = again.to_retry(self.store, subject.labels, everything)
        if not chosen:
            what = "without a result and out of the queue" if everything else "failed"
            print(f"{subject.name}: nothing to retry: no cell is {what}{others and f' ({others})'}.")
            return []
        cells = again.cells_of(self.store, chosen)
        self.config = self.launching.as_before(self.store, chosen)
        print(f"{subject.name}: {plan.count(len(cells), 'cell')} to run again")
        self._check_machine(cells)
        searches = again.searches_of(self.store, cells)
        if searches and self.launching.waits:
            raise UnusableConfiguration(
                "retry: these cells wait for a head search. Run the sweep's own command again."
            )
        returns = start_cells(self.store, self.launching, cells, subject, searches)
        self._conclude(returns, subject)
        return returns

    def cancel(self) -> None:
        """Cancel the SLURM jobs of the grid, or of the last sweep."""
        if subject := self._subject():
            with _reading():
                print(again.cancel(self.store, subject.labels))

    def _check_machine(self, cells: Sequence[Cell]) -> None:
        self.launching.check_machine((cell.settings["model"], cell.settings["engine"]) for cell in cells)

    def _conclude(self, returns: Sequence[Any], subject: Subject) -> None:
        broken = sum(not came_to_its_end(number, one) for number, one in enumerate(returns))
        labels = subject.labels
        with _reading():
            done = self.store.finished(labels)
        missing = [name for name in labels if name not in done]
        failures = self.store.failures(missing)
        if done:
            print(self._report(subject))
        for line in status.failure_lines(failures, labels):
            print(line, file=sys.stderr)
        self._next_steps(0 if broken else len(missing) - len(failures), bool(failures or broken))
        if failures or broken:
            raise CellsFailed(
                f"{len(failures)} of {len(labels)} cells failed"
                + (f", {len(missing) - len(failures)} have no result: a job stopped" if broken else "")
                + ". Run the same command again: finished cells are kept."
            )

    def _next_steps(self, open_cells: int, failed: bool) -> None:
        where = "".join(f" {quote(text)}" for text in self.arguments if text.startswith("output="))
        if open_cells:
            cells = plan.count(open_cells, "cell")
            print(f"{cells} without a result yet: submitted, or run by another process.")
        waiting = open_cells and not self.launching.waits
        other = "components" if self.experiment == "quickstart" else "quickstart"
        verbs = ["status", "retry", "report"] if failed else ["status", "report", f"run +experiment={other}"]
        print("Next:")
        for verb in ["status watch=true", "report", "cancel"] if waiting else verbs:
            print(f"  {status.program()} {verb}{where}")

    def _report(self, subject: Subject) -> str:
        from sparsemm.sweep.reporting import Reporting

        with _reading():
            return Reporting(self.store, self._composer(), tracking_of(self.config)).report(subject)

    def sync(self) -> None:
        """Send what waits for W&B."""
        from sparsemm.sweep.reporting import send

        send(self.store)

    @property
    def _name(self) -> str:
        return report_name(self.experiment, self.arguments, self._own_grid)

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
    except PermissionError as error:
        raise UnusableConfiguration(f"{error.filename}: you may not read it. Ask its owner.") from error
    except ValueError as error:
        raise UnusableConfiguration(str(error)) from error
