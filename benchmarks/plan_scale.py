"""How long planning takes: compose, validate and fingerprint 1,000 and 10,000 points, after the imports.

Run: python benchmarks/plan_scale.py
"""

import sys
import time

from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from sparsemm.cli import register
from sparsemm.sweep.compose import Composer
from sparsemm.sweep.grid import make_grid

METHODS = "method=snapkv,pyramidkv,adakv,sparsemm,random"
GRIDS = {
    1_000: [METHODS, "task=documents,reading", "budget=range(40,65)", "task.limit=10,20,30,40"],
    10_000: [METHODS, "task=documents,reading", "budget=range(40,140)", "task.limit=range(10,20)"],
}


def main() -> None:
    """Print one line per size."""
    register()
    with initialize_config_module("sparsemm.conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("run", sys.argv[1:], RunMode.MULTIRUN)
        make_grid(Composer(loader, master), sys.argv[1:])  # the imports, once
        for size, grid in GRIDS.items():
            started = time.perf_counter()
            cells = make_grid(Composer(loader, master), [*grid, *sys.argv[1:]]).cells
            print(f"{size} points, {len(cells)} cells: {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
