"""How jobs start: by the Hydra launcher that was chosen."""

import contextlib
import io
import shutil
import sys
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from sparsemm.config import Settings
from sparsemm.results.files import read_json
from sparsemm.results.store import Store
from sparsemm.sweep.code import changes, git_state
from sparsemm.sweep.digests import canonical
from sparsemm.sweep.errors import UnusableConfiguration
from sparsemm.sweep.jobs import quoted
from sparsemm.sweep.plan import Sizing
from sparsemm.sweep.slurm import SlurmSilent
from sparsemm.sweep.submitted import Submissions, Submitted, has_own

SLURM = "hydra_plugins.sparsemm.SlurmLauncher"
HERE = ("BasicLauncher", "JoblibLauncher", "LocalLauncher")  # whose jobs run on this machine


@dataclass(frozen=True)
class Launching:
    """The chosen launcher, as the sweeper uses it."""

    config: DictConfig
    context: HydraContext
    task_function: TaskFunction

    @property
    def name(self) -> str:
        """hydra/launcher=..."""
        return str(self.config.hydra.runtime.choices["hydra/launcher"])

    @property
    def parameters(self) -> dict[str, Any]:
        """What it was given."""
        node = OmegaConf.to_container(self.config.hydra.launcher, resolve=True)
        return {str(key): value for key, value in node.items()} if isinstance(node, dict) else {}

    @property
    def submits(self) -> bool:
        """Whether its jobs go to SLURM."""
        return str(self.parameters.get("_target_", "")).endswith(SLURM)

    def check_machine(self, wanted: Iterable[tuple[Settings, Settings]]) -> None:
        """Refuse what this machine cannot compute, where the jobs run on it.

        Args:
            wanted: settings of a model and of the engine.

        Raises:
            UnusableConfiguration: no GPU; a backend, an attention or a way to decode that cannot run here.
        """
        if str(self.parameters.get("_target_")).rpartition(".")[2] not in HERE:
            return
        try:
            for model, engine in {canonical(one): one for one in wanted}.values():
                from sparsemm.sweep.device import check_here  # torch is slow to import

                check_here(model, engine)
        except ValueError as error:
            raise UnusableConfiguration(f"Nothing was started: {error}") from error

    @property
    def waits(self) -> bool:
        """Whether its jobs have ended when it returns."""
        return not self.submits or bool(self.parameters["wait"])

    @property
    def sizing(self) -> Sizing:
        """Into how many jobs a task is split."""
        shards = int(self.config.shards)
        if shards < 1:
            raise UnusableConfiguration(f"shards={shards}: must be at least 1. Set shards.")
        if not self.submits:
            return Sizing(shards)
        return Sizing(shards, float(self.parameters["job_minutes"]), int(self.parameters["workers"]))

    def as_before(self, store: Store, fingerprints: Iterable[str]) -> DictConfig:
        """The configuration, with the launcher that submitted these cells last where none is chosen.

        Raises:
            UnusableConfiguration: it had a secret that this shell does not have, or it was another user's.
        """
        if any(one.startswith("hydra/launcher=") for one in self.config.hydra.overrides.hydra):
            return self.config
        submissions = Submissions(store).about(list(fingerprints))
        given = next((known for one in submissions if (known := one.given())), None)
        if given is None:
            return self.config
        config = self.config.copy()
        with read_write(config), open_dict(config):
            config.hydra.launcher = {"_target_": SLURM, **given}
            config.hydra.runtime.choices["hydra/launcher"] = "slurm"
        return config

    def prepare(self, folder: Path) -> Any:
        """The launcher, ready; what is wrong with its parameters shows before anything is written.

        Raises:
            UnusableConfiguration: it cannot be used.
        """
        with open_dict(self.config):
            self.config.hydra.sweep.dir = str(folder)
        return Plugins.instance().instantiate_launcher(
            hydra_context=self.context, task_function=self.task_function, config=self.config
        )

    def launch(self, launcher: Any, files: Sequence[Path], folder: Path) -> list[Any]:
        """Start job files; returns what the launcher returns for each."""
        overrides = [
            [
                f"job_file={quoted(str(file))}",
                f"hydra.sweep.dir={quoted(str(folder))}",
                f"hydra/launcher={self.name}",
            ]
            for file in files
        ]
        if not files:
            return []
        try:
            return list(launcher.launch(overrides, initial_job_idx=0))
        except UnusableConfiguration:  # nothing was started: no trace of it stays
            shutil.rmtree(folder)
            raise

    def warn_of_changes(self, jobs: Iterable[Submitted]) -> None:
        """Say that jobs which have not started yet will run other code than was submitted."""
        files = {file.parent: file for job in jobs if job.live for file in job.job.files[:1]}
        then = [(read_json(file) or {}).get("git") or {} for file in files.values()]  # one of each sweep
        now = git_state() if then else {}
        for changed in dict.fromkeys(filter(None, (changes(one, now) for one in then))):
            print(f"The code changed since submission: {changed}. Jobs run what is there when they start.")

    def in_queue(self, store: Store, fingerprints: Iterable[str]) -> dict[str, list[Submitted]]:
        """The cells that have a job in SLURM's queue already; none for a launcher that runs here.

        A head search in front of a cell is none: the cell's own job may have been refused, or cancelled.

        Raises:
            UnusableConfiguration: SLURM does not answer.
        """
        if not self.submits:
            return {}
        try:
            found = Submissions(store).jobs(list(fingerprints))
        except SlurmSilent as error:
            raise UnusableConfiguration(f"Nothing was submitted: SLURM does not answer: {error}") from error
        return {cell: jobs for cell, jobs in found.items() if has_own(jobs)}


def came_to_its_end(number: int, returned: Any) -> bool:
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
