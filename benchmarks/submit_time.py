"""How long the 15 jobs of table3_main take to submit, planning included, to a real SLURM on this machine.

The models and data are the small ones of smoke=true, made before the clock runs; the 465 cells are the
table's own. The jobs are held and cancelled. Needs SLURM's programs; the second figure is processor time.

Run: python benchmarks/submit_time.py
"""

import importlib.util
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CLUSTER = Path(__file__).parent.parent / "tests" / "cluster" / "cluster.py"
ROUNDS = 3


def main() -> None:
    """Print one line per verb and round."""
    spec = importlib.util.spec_from_file_location("cluster", CLUSTER)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["cluster"] = module
    spec.loader.exec_module(module)
    if reason := module.why_not():
        print(f"not measured: {reason}")
        return
    with tempfile.TemporaryDirectory() as folder:
        cluster = module.Cluster(Path(folder) / "cluster")
        cluster.start()
        try:
            grid = ["+experiment=table3_main", "smoke=true", f"output={folder}/outputs"]
            slurm = ["hydra/launcher=slurm_cpu", "hydra.launcher.cpus=1", "hydra.launcher.mem_gb=null"]
            timed(cluster.env, "plan", *grid)  # makes the models and the data
            for _ in range(ROUNDS):
                for verb in ("plan", "run", "status", "cancel"):
                    held = [*slurm, "hydra.launcher.sbatch={hold: true}"] if verb == "run" else []
                    wall, processor = timed(cluster.env, verb, *grid, *held)
                    print(f"{verb}: {wall:.1f} s, {processor:.1f} s of a processor", flush=True)
        finally:
            cluster.stop()


def timed(env: dict[str, str], *arguments: str) -> tuple[float, float]:
    """Seconds of wall-clock and processor time of one command."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "sparsemm.cli", *arguments]
    subprocess.run(command, env={**os.environ, **env}, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
