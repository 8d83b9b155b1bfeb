"""SLURM's signals, in processes of their own."""

import shlex
import signal
import subprocess

from sparsemm.sweep.slurm_job import patient_python

WORKER = """
print("started", flush=True)
input()
from sparsemm.sweep.slurm_job import Stop
print(Stop(patience_s=60).asked(), flush=True)
"""


def started(signals: list[signal.Signals]) -> tuple[str, int]:
    """What a job says that gets signals between its start and its first line of ours."""
    worker = subprocess.Popen(
        ["sh", "-c", f"exec {patient_python()} -u -c {shlex.quote(WORKER)}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout and worker.stdout.readline() == "started\n"
    for number in signals:
        worker.send_signal(number)
    said, _ = worker.communicate("go on\n", timeout=300)
    return said.strip(), worker.returncode


def test_a_signal_that_comes_before_anybody_listens_is_heard_afterwards() -> None:
    assert started([signal.SIGUSR2]) == ("True", 0)


def test_without_a_signal_nothing_is_asked() -> None:
    assert started([]) == ("False", 0)
