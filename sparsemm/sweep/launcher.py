"""hydra/launcher=slurm: submits a sweep's jobs as arrays through submitit, and returns."""

import contextlib
import io
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus

from sparsemm.results.store import Store
from sparsemm.sweep import slurm
from sparsemm.sweep.arrays import arrays
from sparsemm.sweep.errors import CellsFailed, UnusableConfiguration
from sparsemm.sweep.plan import count
from sparsemm.sweep.slurm_job import SlurmTask, patient_python
from sparsemm.sweep.slurm_parameters import KEY, SlurmParameters
from sparsemm.sweep.status import program
from sparsemm.sweep.submission import Part, Submission, secrets
from sparsemm.sweep.submitted import Submissions, Submitted, jobs_of, states

MOST = 1000  # jobs of one array: their files lie in one folder
OF_THE_CLUSTER = ("SLURM_CONF", "SLURM_JWT", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT")  # not of an allocation
NOT_OURS = "job_file must be given: hydra/launcher=slurm runs the jobs of the project's own sweeper"


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
    for needed in ("sbatch", "srun", "squeue"):
        if shutil.which(needed) is None:
            raise UnusableConfiguration(
                f"hydra/launcher=slurm: there is no {needed} on this machine's PATH. Run this on a login "
                "node of the cluster, or leave hydra/launcher out to run here."
            )
    return parameters


def launch(parameters: SlurmParameters, folder: Path, overrides: Sequence[Sequence[str]]) -> list[JobReturn]:
    """Submit job files, in a sweep's folder, as arrays; with `wait`, stay until they have ended.

    Raises:
        UnusableConfiguration: sbatch refuses; nothing was submitted.
        CellsFailed: sbatch refuses a later array.
    """
    if misread := set("%\\") & set(str(folder)):
        raise UnusableConfiguration(
            f"output={folder.parents[1]}: SLURM takes {misread.pop()} in a log path for a pattern. "
            "Give another output."
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
    try:
        failed = _wait(submission, parameters.poll_s) if parameters.wait else {}
    except KeyboardInterrupt:
        follow = f"`{program()} status watch=true` follows them, `{program()} cancel` ends them."
        print(f"\nNo longer waited for: the jobs go on in SLURM. {follow}", file=sys.stderr)
        raise
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
        with _own_environment(parameters.environment, part.folder), contextlib.redirect_stderr(io.StringIO()):
            jobs = executor.map_array(task, [[str(file) for file in job.files] for job in part.jobs])
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        said = re.findall(r"^sbatch: (?:error: )?(.*)$", str(error), re.MULTILINE) or [str(error)]
        words = ". ".join(dict.fromkeys(line.rstrip(".") for line in said))
        raise _Refused(
            f"sbatch says: {words}. Where it refuses a parameter, change {KEY}.partition, account, qos, "
            'time_min, gpus, cpus, mem_gb or sbatch; `sinfo -o "%P %l %c %m %G"` lists what partitions have.'
        ) from error
    return str(jobs[0].job_id).partition("_")[0]


@contextlib.contextmanager
def _own_environment(environment: Mapping[str, Any], folder: Path) -> Iterator[None]:
    """What sbatch sees, and hands to jobs: secrets, and nothing of an allocation that this runs in.

    Its scripts are for their owner alone.
    """
    before = dict(os.environ)
    if "SLURM_JOB_ID" in before:  # srun in the new jobs would take the old one's memory and tasks for theirs
        for name in before:
            if name.startswith(("SLURM_", "SRUN_")) and name not in OF_THE_CLUSTER:
                del os.environ[name]
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
