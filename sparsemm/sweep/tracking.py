"""What conf/tracking asks for, checked before any work; and a benchmark's copy in W&B."""

import shlex
from importlib import import_module
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from sparsemm.paths import resolve
from sparsemm.results.store import Store
from sparsemm.results.wandb_settings import Tracking
from sparsemm.sweep.errors import UnusableConfiguration


def tracking_of(config: DictConfig) -> Tracking:
    """Return the checked settings of conf/tracking.

    Raises:
        UnusableConfiguration: W&B would refuse them, or nobody is logged in.
    """
    tracking = Tracking(**config.tracking)
    try:
        tracking.check()
    except ValueError as error:
        raise UnusableConfiguration(f"Nothing was started: {error}") from error
    return tracking


def track_bench(folder: Path, tracking: Tracking, experiment: str | None) -> str:
    """Copy the benchmark in `folder` to W&B where that is asked for; return what to print."""
    if tracking.mode == "none":
        return ""
    from sparsemm.results.wandb_bench import track

    module = import_module(f"sparsemm.experiments.{experiment}") if experiment else None
    board = module.board(tracking.project, tracking.entity) if module else None
    root = store_of(folder)
    send = "sparsemm sync" if root == _default_store() else f"sparsemm sync {shlex.quote(f'output={root}')}"
    return track(folder, root, tracking, board, send) + "\n"


def store_of(folder: Path) -> Path:
    """Return the root of the store that has a benchmark's `folder` in <root>/bench; else the default one."""
    default = _default_store()
    for one in (folder.absolute(), *folder.absolute().parents):
        if one.name == "bench" and (one.parent == default or Store(one.parent).cells.is_dir()):
            return one.parent
    return default


def _default_store() -> Path:
    return Store(OmegaConf.load(resolve("pkg://sparsemm.conf/run.yaml")).output).root
