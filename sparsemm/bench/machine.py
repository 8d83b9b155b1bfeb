"""On what was measured: the device, its clocks, the versions."""

import platform
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from sparsemm.sweep.code import git_state

ASKED = "driver_version,clocks.sm,clocks.mem"
LONGEST_S = 20  # that nvidia-smi may take


def describe(device: torch.device, copy_gb_per_s: float | None) -> dict[str, Any]:
    """The machine as bench.json has it; null is what could not be found out.

    Args:
        device: that computes.
        copy_gb_per_s: its measured bandwidth of a copy, reads and writes both counted.
    """
    gpu = device.type == "cuda"
    driver, clocks = _driver(device) if gpu else (None, None)
    return {
        "device": torch.cuda.get_device_name(device) if gpu else _processor(),
        "gpu": gpu,
        "cuda": torch.version.cuda if gpu else None,
        "driver": driver,
        "clocks_mhz": clocks,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": _version("transformers"),
        "triton": _version("triton"),
        "python": platform.python_version(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "copy_gb_per_s": copy_gb_per_s,
        "sparsemm": _own(),
    }


def _driver(device: torch.device) -> tuple[str | None, dict[str, int] | None]:
    """The driver's version and the clocks in MHz while the device computes: idle ones say nothing."""
    number = torch.cuda.current_device() if device.index is None else device.index
    uuid = f"GPU-{torch.cuda.get_device_properties(number).uuid}"
    asked = ["nvidia-smi", f"--id={uuid}", f"--query-gpu={ASKED}", "--format=csv,noheader,nounits"]
    busy = torch.ones(4096, 4096, dtype=torch.bfloat16, device=device)
    try:
        with subprocess.Popen(asked, stdout=subprocess.PIPE, text=True) as process:
            until = time.monotonic() + LONGEST_S
            while process.poll() is None and time.monotonic() < until:
                torch.matmul(busy, busy)
                torch.cuda.synchronize(device)
            process.kill()
            told = process.stdout.read() if process.stdout else ""
        driver, sm, memory = (one.strip() for one in told.strip().split(","))
        return driver, {"sm": int(sm), "memory": int(memory)}
    except (OSError, ValueError):
        return None, None


def _processor() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _own() -> str:
    """Our version, and the commit where this is a clone."""
    state = git_state()
    commit = "" if state["commit"] is None else f"+{state['commit'][:10]}{'.dirty' if state['dirty'] else ''}"
    return f"{_version('sparsemm')}{commit}"
