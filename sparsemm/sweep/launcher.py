"""hydra/launcher=slurm: submits a sweep's jobs as arrays through submitit, and returns."""

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus

from sparsemm.config import check_target
from sparsemm.results.store import Store
from sparsemm.sweep import slurm
from sparsemm.sweep.arrays import arrays
from sparsemm.sweep.errors import CellsFailed, UnusableConfiguration
from sparsemm.sweep.plan import count
from sparsemm.sweep.slurm_job import SlurmTask, patient_python
from sparsemm.sweep.submission import Part, Submission, secrets
from sparsemm.sweep.submitted import Submissions, Submitted, jobs_of, states

_KEY = "hydra.launcher"
MOST = 1000  # jobs of one array: their files lie in one folder
NOT_OURS = "job_file must be given: hydra/launcher=slurm runs the jobs of the project's own sweeper"


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
        for name in self.environment:
            if not str(name).isidentifier():
                raise ValueError(f"{_KEY}.environment: {name} is no name of a variable. Correct it.")
        passed = (os.environ.get("SBATCH_EXPORT") or str(self.sbatch.get("export", "ALL"))).split(",")
        for name in secrets(self.environment):
            if not {"ALL", name} & set(passed):
                raise ValueError(
                    f"{_KEY}.environment.{name}: secrets reach jobs through sbatch's own environment, and "
                    f"its export={','.join(passed)} keeps this one back. Add {name} or ALL to it."
                )

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "SlurmParameters":
        """Parameters as Hydra gives them.

        Raises:
            ValueError: an unknown parameter, one that is missing, or a value of another type.
        """
        check_target(_KEY, {"_target_": f"{cls.__module__}.{cls.__name__}", **given})
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


def _at_least(least: int, name: str, value: int) -> None:
    if value < least:
        raise ValueError(f"{_KEY}.{name}={value}: must be at least {least}. Set {_KEY}.{name}.")


def check(given: Mapping[str, Any]) -> SlurmParameters:
    """The parameters, before anything is written.

    Raises:
        UnusableConfiguration: they cannot be used, or not on this machine.
    """
    try:
        parameters = SlurmParameters.of(given)
        import submitit  # noqa: F401
    except ValueError as error:
        raise UnusableConfiguration(f"Nothing was submitted: {error}") from error
    except ImportError as error:
        raise UnusableConfiguration(
            'hydra/launcher=slurm needs submitit. Install it: pip install "sparsemm[slurm]"'
        ) from error
    for program in ("sbatch", "srun", "squeue"):
        if shutil.which(program) is None:
            raise UnusableConfiguration(
                f"hydra/launcher=slurm: there is no {program} on this machine's PATH. Run this on a login "
                "node of the cluster, or leave hydra/launcher out to run here."
            )
    return parameters


def launch(parameters: SlurmParameters, folder: Path, overrides: Sequence[Sequence[str]]) -> list[JobReturn]:
    """Submit job files, in a sweep's folder, as arrays; with `wait`, stay until they have ended.

    Raises:
        UnusableConfiguration: sbatch refuses; nothing was submitted.
        CellsFailed: sbatch refuses a later array.
    """
    if "%" in str(folder):
        raise UnusableConfiguration(
            f"output={folder.parents[1]}: SLURM takes % in a log path for a pattern. Give another output."
        )
    files = [_job_file(one) for one in overrides]
    known = Submissions(Store(folder.parents[1]))
    try:
        parts = arrays(folder, files, parameters.workers, min(slurm.max_array(), MOST), known.search)
    except slurm.SlurmSilent as error:
        raise UnusableConfiguration(f"Nothing was submitted: SLURM does not answer: {error}") from error
    new = [number for number, part in enumerate(parts) if part.id is None]
    submission = Submission(folder, time.time(), tuple(parts), asdict(parameters))
    submission.write()
    for number, part in enumerate(parts):
        if part.id is not None:
            print(f"SLURM {part.id}: head search, in the queue already")
            continue
        try:
            before = [submission.parts[one].id or "" for one in part.after]
            submission = submission.with_id(number, _submit(parameters, part, before))
        except _Refused as error:
            if number == new[0]:
                raise UnusableConfiguration(f"Nothing was submitted. {error}") from error
            left = sum(len(parts[one].jobs) for one in new if one >= number)
            raise CellsFailed(
                f"{left} of {sum(len(parts[one].jobs) for one in new)} jobs were not submitted. {error} "
                "Run the same command again later: what is in the queue is left out."
            ) from error
        submission.write()
        what = "head search, " if part.search else ""
        jobs_of_part = what + count(len(part.jobs), "job") + "".join(f", after {one}" for one in before)
        print(f"SLURM {submission.parts[number].id}: {jobs_of_part}, logs in {part.folder}", flush=True)
    failed = _wait(submission, parameters.poll_s) if parameters.wait else {}
    return [_returned(one, failed.get(str(file))) for one, file in zip(overrides, files, strict=True)]


class _Refused(RuntimeError):
    """sbatch's own words."""


def _submit(parameters: SlurmParameters, part: Part, after: Sequence[str]) -> str:
    """The id of the array (or of the one job); `after`: ids of what must have ended well before."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = submitit.SlurmExecutor(
        part.folder, max_num_timeout=parameters.max_timeouts, python=patient_python()
    )
    executor.update_parameters(**parameters.for_submitit(part.name, after))
    task = SlurmTask(max(1, parameters.signal_s * 2 // 3))
    try:
        with _kept_back(parameters.environment, part.folder):
            jobs = executor.map_array(task, [[str(file) for file in job.files] for job in part.jobs])
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        said = re.findall(r"^sbatch: (?:error: )?(.*)$", str(error), re.MULTILINE) or [str(error)]
        words = ". ".join(dict.fromkeys(line.rstrip(".") for line in said))
        raise _Refused(
            f"sbatch says: {words}. Change {_KEY}.partition, account, qos, time_min or gpus; `sinfo -s` "
            "lists partitions and their limits."
        ) from error
    return str(jobs[0].job_id).partition("_")[0]


@contextlib.contextmanager
def _kept_back(environment: Mapping[str, Any], folder: Path) -> Iterator[None]:
    """Secrets are variables of sbatch, which hands them to jobs; its scripts are for their owner alone."""
    before = dict(os.environ)
    os.environ.update({name: str(environment[name]) for name in secrets(environment)})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        for script in folder.glob("*.sh"):  # an umask would go with the jobs, to all that they write
            script.chmod(0o600)


def _wait(submission: Submission, poll_s: float) -> dict[str, str]:
    """Print one line per change until no job is left.

    Returns:
        Why a job stopped, by job file, for jobs that ended otherwise than by coming to their end.
    """
    shown = ""
    while True:
        try:
            (jobs,) = jobs_of([submission])
            text = states(jobs)
        except slurm.SlurmSilent as error:
            jobs, text = [], f"SLURM does not answer: {error}"
        if text != shown:
            print(text, flush=True)
            shown = text
        if jobs and not any(job.live for job in jobs):
            store = Store(submission.folder.parents[1])
            broken = [job for job in jobs if job.broken and _unexplained(store, job)]
            return {str(file): job.words() for job in broken for file in job.job.files}
        time.sleep(poll_s)


def _unexplained(store: Store, job: Submitted) -> bool:
    """Whether the store does not say why the job failed: a cell has neither a result nor a failure."""
    folders = [store.cell(name) for name in job.job.cells]
    open_cells = [one for one in folders if one.result() is None and one.failure() is None]
    return bool(open_cells) or not folders


def _job_file(overrides: Sequence[str]) -> Path:
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.key_or_group == "job_file":
            return Path(str(override.value()))
    raise UnusableConfiguration(f"{NOT_OURS}. Leave hydra/sweeper out, or choose another launcher.")


def _returned(overrides: Sequence[str], stopped: str | None) -> JobReturn:
    """What Hydra wants to know: COMPLETED also means submitted."""
    done = JobReturn()
    done.overrides = list(overrides)
    done.status = JobStatus.FAILED if stopped else JobStatus.COMPLETED
    done.return_value = OSError(stopped) if stopped else 0
    return done
