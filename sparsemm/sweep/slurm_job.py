"""What runs on a node of a SLURM cluster: job files, until they are done or SLURM wants the node back."""

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from sparsemm.sweep.errors import CellsFailed

# Python as it was called, but a signal to stop waits until somebody hears it.
_HELD = """\
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"""


def patient_python() -> str:
    """The command that starts Python in a job: USR2, which would end it before `Stop` is there, waits."""
    return shlex.join([sys.executable, "-c", "; ".join(_HELD.splitlines())])


@dataclass(frozen=True)
class SlurmTask:
    """The callable that submitit pickles. A requeued job calls it again: it goes on where the store is.

    Args:
        patience_s: from the signal until the job goes even though no sample boundary came.
    """

    patience_s: int

    def __call__(self, files: Sequence[str]) -> None:
        """Run job files; the workers of one job begin at different ones, and help each other.

        Raises:
            CellsFailed: SLURM shall see that the job failed.
        """
        import submitit

        from sparsemm.sweep.jobs import is_search, run_file

        job = submitit.JobEnvironment()
        stop = Stop(self.patience_s)
        if job.num_tasks > 1:
            _choose_gpu(job.local_rank)
        first = job.global_rank % len(files)
        failed = 0
        for file in (*files[first:], *files[:first]):
            if file == files[first] or not is_search(
                Path(file)
            ):  # searches have no leases: each has one worker
                failed += run_file(Path(file), stop.asked, job.job_id)
            stop.leave_if_asked()
        if failed:
            raise CellsFailed(f"{failed} cells failed; `sparsemm status` says why.")

    def checkpoint(self, files: Sequence[str]) -> Any:
        """What submitit submits again: the same, since the store knows what is done."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, files)


class Stop:
    """Turns SLURM's signals into a question that the worker asks at every sample boundary.

    USR2 (a time limit or a preemption is near): submitit requeues the job. TERM (cancelled, or a preemption
    after which SLURM itself requeues): the job ends.
    """

    def __init__(self, patience_s: int) -> None:
        self._patience_s = patience_s
        self._signal: int | None = None
        self._requeue: Any = signal.getsignal(signal.SIGUSR2)  # submitit's: saves its state, requeues, exits
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, self._hear)
        signal.signal(signal.SIGALRM, self._out_of_patience)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])  # what came before is heard now

    def asked(self) -> bool:
        """Whether to stop at the next sample boundary."""
        return self._signal is not None

    def leave_if_asked(self) -> None:
        """Leave as SLURM asked; everything is on the disk."""
        if self._signal is None:
            return
        signal.alarm(0)
        if self._signal == signal.SIGTERM:
            print("Stopped at a sample boundary: cancelled, or preempted by SLURM.", file=sys.stderr)
            sys.exit(128 + signal.SIGTERM)
        self._requeue(signal.SIGUSR2, None)

    def _hear(self, number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        print(f"{name}: stopping at the next sample boundary.", file=sys.stderr, flush=True)
        if self._signal != signal.SIGUSR2:
            self._signal = number
        if number == signal.SIGUSR2:
            signal.alarm(self._patience_s)

    def _out_of_patience(self, _: int, frame: FrameType | None) -> None:
        self._requeue(signal.SIGUSR2, frame)


def _choose_gpu(rank: int) -> None:
    """One GPU for each worker of a job: SLURM shows all of them to every worker."""
    seen = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
    if seen:
        os.environ["CUDA_VISIBLE_DEVICES"] = seen[rank % len(seen)]
