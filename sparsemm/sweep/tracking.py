"""What conf/tracking asks for, checked before any work; and a benchmark's copy in W&B."""

from importlib import import_module
from pathlib import Path

from omegaconf import DictConfig

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
    return track(folder, tracking, module.board(tracking.project, tracking.entity) if module else None) + "\n"
