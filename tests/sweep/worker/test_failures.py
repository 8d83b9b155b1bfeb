"""What goes wrong while cells run, seen from the command line: a clear reason, and the rest goes on."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import ImageFile

from sparsemm.results.store import Store
from sparsemm.sweep.worker import run_job

BROKEN = """
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from sparsemm.methods.base import Scorer
from sparsemm.tasks.base import Sample
from sparsemm.tasks.synthetic import Documents

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Raises(Scorer):
    def scores(self, queries, keys, scaling, candidates):
        if not (HERE / "repaired").exists():
            raise RuntimeError("this scorer is broken")
        return keys[:, :candidates, 0].float()


@dataclass(frozen=True, kw_only=True)
class WithBrokenFiles(Documents):
    broken: list[int]

    def _image(self, number):
        if number in self.broken and not (HERE / "repaired").exists():
            data = BytesIO()
            super()._image(number).save(data, "png")
            return Image.open(BytesIO(data.getvalue()[:200]))
        return super()._image(number)
"""
USER_CONF = ["hydra.searchpath=[file://conf]"]


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder with a scorer that raises and a task with files that cannot be read."""
    (tmp_path / "broken.py").write_text(BROKEN)
    (tmp_path / "conf" / "scorer").mkdir(parents=True)
    (tmp_path / "conf" / "scorer" / "raises.yaml").write_text("_target_: broken.Raises\n")
    return tmp_path


@pytest.fixture
def sparsemm(folder: Path, model: list[str], worker_settings: list[str]) -> Callable[..., Done]:
    """`sparsemm run` of a small grid in the user's folder."""

    def call(*arguments: str, output: str = "outputs") -> Done:
        command = [
            sys.executable, "-m", "sparsemm.cli", "run", *model, *worker_settings, "method=full,snapkv",
            "budget=8,12", f"output={output}", *arguments,
        ]  # fmt: skip
        env = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": str(folder)}
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env, check=False)
        return Done(done.returncode, done.stdout, done.stderr)

    return call


def test_a_method_that_raises_fails_alone_and_is_tried_again(folder, sparsemm):
    grid = [*USER_CONF, "scorer=window_attention,raises", "method=snapkv"]
    done = sparsemm(*grid)
    assert done.code == 1
    assert "RuntimeError: this scorer is broken (in 2 cells" in done.err
    assert "2 of 4 cells failed" in done.err
    assert "Traceback" not in done.err
    store = Store(folder / "outputs")
    assert {result["label"]["scorer"] for result in store.results()} == {"window_attention"}

    (folder / "repaired").touch()
    again = sparsemm(*grid)
    assert again.code == 0, again.err
    assert "2 finished, 2 to run" in again.out
    assert len(store.results()) == 4
    assert not store.failures(store.fingerprints())


def test_an_image_that_cannot_be_read_fails_its_samples_only(folder, sparsemm):
    task = ["task._target_=broken.WithBrokenFiles", "+task.broken=[1,4]"]
    done = sparsemm(*task)
    assert done.code == 0, done.err
    for result in Store(folder / "outputs").results():
        assert (result["samples"], result["failed"]) == (16, 4)
        assert result["documents"]["counts"] == [2, 0, 2, 2, 0, 2, 2, 2]
        assert len(result["failures"]) == 4
        assert result["failures"][0].startswith("document-000001-0: OSError: ")
    assert "4 of 16 samples failed (document-000001-0: OSError" in done.out


def test_a_cell_without_one_readable_image_fails_and_is_tried_again(folder, make_job, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)  # lmms-eval sets it for the process
    job = make_job(folder, "task._target_=broken.WithBrokenFiles", "+task.broken=[0,1,2,3,4,5,6,7]")
    store = Store(folder)
    assert run_job(job) == 7
    assert all(
        (store.cell(name).failure() or "").startswith("every sample failed; first: OSError: ")
        for name in store.fingerprints()
    )
    (folder / "repaired").touch()
    assert run_job(job) == 0
    assert [result["failed"] for result in store.results()] == 7 * [0]
    assert not store.failures(store.fingerprints())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("engine.device=cuda", "PyTorch sees no GPU here. Set engine.device=cpu"),
        ("engine.cache_backend=cuda", "takes a head_dim of 64, 80, 96, 128, 256, but the model's is 16"),
        ("engine.decode=graph", "needs an NVIDIA GPU, but the model is on cpu"),
        ("model.attention=flash_attention_2", "needs an NVIDIA GPU, but the model is on cpu"),
    ],
)
def test_what_this_machine_cannot_compute_is_an_error_before_any_work(folder, sparsemm, setting, said):
    done = sparsemm(setting)
    assert done.code == 2
    assert f"Nothing was started: {setting}: {said}" in done.err
    assert "Traceback" not in done.err
    assert not (folder / "outputs" / "cells").exists() and not (folder / "outputs" / "sweeps").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path, but: int = 0) -> Path:
    """Leave `but` bytes."""
    filler = disk / "filler"
    filler.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - but)))
    return filler


def test_a_full_disk_stops_with_the_reason_and_the_next_run_goes_on(folder, sparsemm, small_disk):
    filler = fill(small_disk, but=120 * 1024)
    full = sparsemm("task.limit=100", output=str(small_disk))
    assert full.code == 1
    assert "cannot write: No space left on device" in full.err
    assert "run the same command again" in full.err
    assert "Traceback" not in full.err
    assert list(small_disk.glob("cells/*/*/samples-*.jsonl")), "it stopped in the middle"
    assert not Store(small_disk).results()

    filler.unlink()
    done = sparsemm("task.limit=100", output=str(small_disk))
    assert done.code == 0, done.err
    assert [result["samples"] for result in Store(small_disk).results()] == [200, 200, 200]


def test_a_disk_that_is_full_from_the_start_is_a_clear_error(sparsemm, small_disk):
    fill(small_disk)
    done = sparsemm(output=str(small_disk))
    assert done.code in (1, 2)
    assert "cannot write: No space left on device" in done.err
    assert "Traceback" not in done.err


def test_a_disk_that_fills_up_in_the_middle_changes_no_answer(
    small_disk, tmp_path, make_job, start, until, look, count_lines
):
    job, calm = make_job(small_disk, "task.limit=24"), make_job(tmp_path / "calm", "task.limit=24")
    assert start(calm).wait() == 0
    worker = start(job, pause_at=40)
    until(lambda: count_lines(small_disk) >= 40, "samples")
    filler = fill(small_disk)
    worker.go_on()
    assert worker.wait() == 1
    assert "No space left on device. Nothing that was written before is lost." in worker.log.read_text()
    filler.unlink()
    assert start(job).wait() == 0
    assert look(small_disk) == look(tmp_path / "calm")
