"""Every kernel compiles for sm_80 and sm_90 without a GPU, and spills no register."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARED_KB = {80: 163, 90: 227}  # what one block may use; CUDA C++ Programming Guide, compute capabilities


@pytest.fixture(scope="module")
def resources(tmp_path_factory):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}
    environment.pop("TRITON_INTERPRET", None)
    script = Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_no_kernel_spills_registers_or_needs_more_shared_memory_than_there_is(resources):
    for row in resources:
        print(" ".join(f"{key}={value}" for key, value in row.items()))
    assert {(row["kernel"], row["sm"]) for row in resources} == {
        (kernel, sm)
        for sm in (80, 90)
        for kernel in (
            "attend_chunk", "combine_chunks", "append_tokens", "gather_kept", "window_sums", "window_means",
            "choose_scores", "copy_segments",
        )
    }  # fmt: skip
    assert [row for row in resources if row["spilled_bytes"]] == []
    assert [row for row in resources if row["shared_kb"] > SHARED_KB[row["sm"]]] == []


def test_attention_copies_keys_and_values_ahead_of_their_use(resources):
    """Three steps of 8 copies of a thread or more. Loads into registers would wait for each other."""
    half = [row for row in resources if row["kernel"] == "attend_chunk" and row["dtype"] != "fp32"]
    assert {row["G"] for row in half} == {1, 7}
    assert [row for row in half if row["copied_ahead"] < 3 * 8] == []
