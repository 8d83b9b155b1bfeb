"""What hydra/launcher=slurm is given, and what submitit makes of it."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

from sparsemm.config import check_target
from sparsemm.sweep.submission import secrets

KEY = "hydra.launcher"
OWN = {  # parameters of sbatch that may not be set twice, and where they are set
    "time": f"set {KEY}.time_min",
    "cpus-per-task": f"set {KEY}.cpus",
    "ntasks-per-node": f"set {KEY}.workers",
    **dict.fromkeys(
        ("job-name", "array", "output", "error", "open-mode", "signal"),
        "the launcher sets it, since it watches and stops jobs by it. Leave it out",
    ),
}
LEAST_S = 0.1  # between looks at the queue


@dataclass(frozen=True, kw_only=True)
class SlurmParameters:
    """What conf/hydra/launcher/slurm.yaml describes.

    Raises:
        ValueError: a value that no job could have.
    """

    partition: str | None
    account: str | None
    qos: str | None
    time_min: int
    gpus: int
    cpus: int
    mem_gb: int | float | None
    exclusive: bool
    workers: int
    array_parallelism: int
    job_minutes: int
    max_timeouts: int
    signal_s: int
    setup: list[str]
    environment: dict[str, Any]
    sbatch: dict[str, Any]
    wait: bool
    poll_s: int | float

    def __post_init__(self) -> None:
        for name in ("time_min", "cpus", "workers", "array_parallelism", "job_minutes", "signal_s"):
            _at_least(1, name, getattr(self, name))
        for name in ("gpus", "max_timeouts"):
            _at_least(0, name, getattr(self, name))
        _at_least(LEAST_S, "poll_s", self.poll_s)
        if 2 * self.signal_s > 60 * self.time_min:  # a job would be told to stop as it starts, and again
            raise ValueError(
                f"{KEY}.signal_s={self.signal_s}: must be at most half of time_min={self.time_min}, that is "
                f"{30 * self.time_min}: the rest is for work. Lower {KEY}.signal_s, or raise {KEY}.time_min."
            )
        for name in self.sbatch:
            if why := OWN.get(str(name).replace("_", "-")):
                raise ValueError(f"{KEY}.sbatch.{name}: {why}.")
            kind = str(name).replace("_", "-") == "gpus-per-node" or str(self.sbatch[name]).startswith("gpu:")
            if kind and self.gpus:  # sbatch would take one of the two
                raise ValueError(f"{KEY}.sbatch.{name}: asks for GPUs as {KEY}.gpus does. Set {KEY}.gpus=0.")
        for name in self.environment:
            if not str(name).isidentifier():
                raise ValueError(f"{KEY}.environment: {name} is no name of a variable. Correct it.")
        passed = (os.environ.get("SBATCH_EXPORT") or str(self.sbatch.get("export", "ALL"))).split(",")
        for name in secrets(self.environment):
            if not {"ALL", name} & set(passed):
                raise ValueError(
                    f"{KEY}.environment.{name}: secrets reach jobs through sbatch's own environment, and "
                    f"its export={','.join(passed)} keeps this one back. Add {name} or ALL to it."
                )

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "SlurmParameters":
        """Parameters as Hydra gives them.

        Raises:
            ValueError: an unknown parameter, one that is missing, or a value of another type.
        """
        check_target(KEY, {"_target_": f"{cls.__module__}.{cls.__name__}", **given})
        return cls(**given)

    def for_submitit(self, name: str, after: Sequence[str] = ()) -> dict[str, Any]:
        """Parameters of submitit's SLURM executor for jobs that wait for others to end well."""
        waits = {"dependency": f"afterok:{':'.join(after)}", "kill-on-invalid-dep": "yes"} if after else {}
        if after and self.sbatch.get("dependency"):
            waits["dependency"] += f",{self.sbatch['dependency']}"
        optional = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "mem": f"{int(self.mem_gb * 1024)}MB" if self.mem_gb else None,
            "gpus_per_node": self.gpus or None,
            "exclusive": self.exclusive or None,
            "additional_parameters": {"requeue": True, **self.sbatch, **waits},
        }
        return {
            "job_name": name,
            "time": self.time_min,
            "nodes": 1,
            "ntasks_per_node": self.workers,
            "cpus_per_task": self.cpus,
            "array_parallelism": self.array_parallelism,
            "signal_delay_s": self.signal_s,
            "srun_args": ["--cpu-bind=none"],  # from 22.05 on srun takes a task for one of one CPU
            "stderr_to_stdout": True,
            "setup": list(self._setup()),
            **{key: value for key, value in optional.items() if value is not None},
        }

    def _setup(self) -> Iterator[str]:
        yield "export PYTHONSAFEPATH=1"  # a folder of the working directory shadows no installed package
        yield f"export OMP_NUM_THREADS={self.cpus}"
        yield from self.setup
        hidden = secrets(self.environment)
        for name, value in self.environment.items():
            if name not in hidden:
                yield f"export {name}={quote(str(value))}"


def _at_least(least: float, name: str, value: float) -> None:
    if value < least:
        raise ValueError(f"{KEY}.{name}={value}: must be at least {least}. Set {KEY}.{name}.")
