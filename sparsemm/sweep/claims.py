"""What experiments say: of cells, of head scores, or of speed and memory."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from sparsemm.heads.compare import HeadsClaim
from sparsemm.results.efficiency import BenchClaim
from sparsemm.sweep.errors import UnusableConfiguration

ABOUT = {"run": "cells", "heads": "head scores", "bench": "speed and memory"}  # by verb; the others as run


def experiment_claim(name: str | None) -> Any:
    """CLAIM of sparsemm.experiments.<name>: how the experiment's table is made; None where there is none."""
    module = f"sparsemm.experiments.{name}"
    return import_module(module).CLAIM if name and name.isidentifier() and find_spec(module) else None


def refuse_claim(experiment: str | None, verb: str) -> None:
    """Raise UnusableConfiguration where a verb is given an experiment about something else."""
    claim = experiment_claim(experiment)
    own = _verb_of(claim)
    if claim is None or own == verb or (own == "run" and verb != "bench"):
        return
    raise UnusableConfiguration(
        f"experiment={experiment}: is about {ABOUT[own]}, not {ABOUT.get(verb, ABOUT['run'])}. "
        f"Try: sparsemm {own} +experiment={experiment}"
    )


def _verb_of(claim: Any) -> str:
    if isinstance(claim, BenchClaim):
        return "bench"
    return "heads" if isinstance(claim, HeadsClaim) else "run"
