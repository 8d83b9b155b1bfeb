"""The project's Hydra plugins. Every Hydra application in an environment imports this file: keep it light."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

ONE_CHOICE = re.compile(r"([\w.]+)=choice\(([^,()]*)\)")  # what sparsemm.cli.one_choice writes


@dataclass
class SparseMMSweeperConf:
    """hydra/sweeper=sparsemm."""

    _target_: str = "hydra_plugins.sparsemm.SparseMMSweeper"
    action: str = "run"  # run | plan | prefetch | status | report; the verbs set it
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


ConfigStore.instance().store(
    group="hydra/sweeper", name="sparsemm", node=SparseMMSweeperConf, provider="sparsemm"
)
