"""What conf/tracking asks for, checked before any work."""

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
