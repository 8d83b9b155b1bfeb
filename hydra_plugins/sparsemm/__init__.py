"""The project's Hydra plugins. Every Hydra application in an environment imports this file: keep it light."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

ONE_CHOICE = re.compile(r"([\w.]+)=choice\(([^,()]*)\)")  # what sparsemm.cli.one_choice writes


@dataclass
class SparseMMSweeperConf:
    """hydra/sweeper=sparsemm."""

    _target_: str = "hydra_plugins.sparsemm.SparseMMSweeper"
    action: str = (
        "run"  # run | plan | prefetch | status | report | sync | cancel | retry | retry_all; the verbs set it
    )
    fast: bool = True  # False: a full Hydra composition for every cell, slow, the same cells
    params: dict[str, str] | None = None  # the grid of an experiment; the command line replaces equal keys


class SparseMMSweeper(Sweeper):
    """Expands, validates and groups a grid of cells before anything starts (sparsemm.sweep.sweeper)."""

    def __init__(self, action: str, fast: bool, params: dict[str, str] | None) -> None:
        self.action, self.fast, self.params = action, fast, params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what `sweep` needs."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Sequence[Any]:
        """Carry out the verb over the grid of `arguments`."""
        from sparsemm.sweep.sweeper import Sweep

        grid = [f"{key}={value}" for key, value in self.params.items()]
        plain = [ONE_CHOICE.sub(r"\1=\2", argument) for argument in arguments]
        sweep = Sweep(self.config, self.hydra_context, self.task_function, [*grid, *plain], self.fast)
        return sweep.act(self.action)


class SlurmLauncher(Launcher):
    """Submits jobs to SLURM and returns (sparsemm.sweep.launcher); see conf/hydra/launcher/slurm.yaml."""

    def __init__(self, **parameters: Any) -> None:
        self.parameters = OmegaConf.to_container(OmegaConf.create(parameters), resolve=True)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Check the parameters: nothing has been written yet."""
        from sparsemm.sweep.launcher import check

        self.folder, self.checked = Path(str(config.hydra.sweep.dir)), check(self.parameters)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit, and with wait=true stay until the jobs have ended."""
        from sparsemm.sweep.launcher import launch

        return launch(self.checked, self.folder.absolute(), job_overrides)


ConfigStore.instance().store(
    group="hydra/sweeper", name="sparsemm", node=SparseMMSweeperConf, provider="sparsemm"
)
