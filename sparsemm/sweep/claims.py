"""What experiments say: of cells, or of head scores."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from sparsemm.heads.compare import HeadsClaim
from sparsemm.sweep.errors import UnusableConfiguration


def experiment_claim(name: str | None) -> Any:
    """CLAIM of sparsemm.experiments.<name>: how the experiment's table is made; None where there is none."""
    module = f"sparsemm.experiments.{name}"
    return import_module(module).CLAIM if name and name.isidentifier() and find_spec(module) else None


def refuse_claim(experiment: str | None, verb: str) -> None:
    """Raise UnusableConfiguration where a verb about cells is given an experiment about head scores."""
    if verb != "heads" and isinstance(experiment_claim(experiment), HeadsClaim):
        raise UnusableConfiguration(
            f"experiment={experiment}: is about head scores, not cells. "
            f"Try: sparsemm heads +experiment={experiment}"
        )
