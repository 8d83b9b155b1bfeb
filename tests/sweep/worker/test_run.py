"""What a worker leaves behind, and what it makes of files that are damaged or newer."""

import json
import shutil
from pathlib import Path

import pytest

from sparsemm.results.store import Store
from sparsemm.sweep.worker import run_job

RECORD = {
    "sample", "document", "index", "question", "answer", "references", "score", "kept_entries", "kept_bytes",
    "prompt_tokens", "new_tokens", "error",
}  # fmt: skip
RESULT = {
    "format", "fingerprint", "label", "identity", "metric", "score", "low", "high", "samples", "failed",
    "failures", "whole", "head_data", "documents", "kept_entries", "kept_share", "full_entries",
    "entries_per_head", "kept_bytes", "group", "provenance",
}  # fmt: skip
GROUP = {"wall_s", "peak_memory_bytes", "rows", "cells", "samples_timed"}
PROVENANCE = {
    "git_commit", "git_dirty", "versions", "host", "device", "dtype", "started", "finished", "attempts",
}  # fmt: skip


def test_a_run_leaves_a_whole_result_and_a_record_of_every_sample(undisturbed):
    store = Store(undisturbed("float32"))
    results = store.results()
    assert len(results) == 7  # full has no budget
    for result in results:
        assert set(result) == RESULT
        assert set(result["group"]) == GROUP
        assert set(result["provenance"]) >= PROVENANCE
        assert (result["samples"], result["failed"], result["metric"]) == (16, 0, "anls")
        assert result["provenance"]["device"] == "cpu"
        assert result["group"]["samples_timed"] == 16
        assert len(result["documents"]["scores"]) == 8
        samples = store.cell(result["fingerprint"]).samples()
        assert (len(samples.records), samples.torn, samples.unreadable, samples.attempts) == (16, 0, 0, 1)
        for record in samples.records.values():
            assert set(record) >= RECORD
            assert record["error"] is None
            assert 0 <= record["score"] <= 1


def test_methods_keep_what_the_budget_says(undisturbed):
    for result in Store(undisturbed("float32")).results():
        budget = result["label"]["budget"]
        if budget is None:
            assert result["kept_share"] == 1
        else:
            assert result["entries_per_head"] == budget
            assert result["kept_bytes"] == result["kept_entries"] * 2 * 16 * 4  # keys and values, D, float32


def test_cells_answer_differently(undisturbed):
    """Otherwise the comparisons of these tests would show little."""
    store = Store(undisturbed("float32"))
    answers = {
        tuple(record["answer"] for record in store.cell(name).samples().records.values())
        for name in store.fingerprints()
    }
    assert len(answers) >= 4


@pytest.mark.parametrize("rest", ['{"sample": "half', "", '{"for": 1', "\x00\x00"])
def test_damaged_samples_are_answered_again(copied, undisturbed, make_job, look, rest):
    """The last lines of every samples file are lost, the rest of the file ends in something torn."""
    for path in copied.glob("cells/*/*/samples-0001.jsonl"):
        whole = path.read_text().splitlines(keepends=True)
        path.write_text("".join(whole[:9]) + "}broken{\n" + "".join(whole[10:13]) + rest)
        (path.parent / "result.json").unlink()
    assert run_job(make_job(copied)) == 0
    assert look(copied) == look(undisturbed("float32"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cells_that_lack_different_samples_end_as_if_undisturbed(
    tmp_path, undisturbed, make_job, look, dtype
):
    root = tmp_path / "copy"
    shutil.copytree(undisturbed(dtype), root)
    for number, path in enumerate(sorted(root.glob("cells/*/*/samples-0001.jsonl"))):
        header, *whole = path.read_text().splitlines(keepends=True)
        path.write_text(header + "".join(whole[number // 2 :: 1 + number % 3]))
        (path.parent / "result.json").unlink()
    assert run_job(make_job(root, f"model.dtype={dtype}")) == 0
    assert look(root) == look(undisturbed(dtype))


def test_a_truncated_result_is_made_again(copied, undisturbed, make_job, look):
    first, second, *_ = sorted(copied.glob("cells/*/*/result.json"))
    first.write_bytes(first.read_bytes()[:100])
    second.write_bytes(b"")
    assert run_job(make_job(copied)) == 0
    assert look(copied) == look(undisturbed("float32"))
    assert len(list(copied.glob("cells/*/*/samples-*.jsonl"))) == 7, "no sample was answered again"


def test_a_result_of_a_newer_version_is_an_error(copied, make_job):
    path = next(copied.glob("cells/*/*/result.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(ValueError, match=r"format=99.*newer SparseMM"):
        run_job(make_job(copied))


def test_a_gpu_that_is_not_there_is_an_error_before_any_work(tmp_path, make_job):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert run_job(make_job(tmp_path, "engine.device=cuda")) == 7
    store = Store(tmp_path)
    reasons = set(store.failures(store.fingerprints()).values())
    assert len(reasons) == 1 and next(iter(reasons)).startswith("engine.device=cuda: PyTorch sees no GPU")
    assert not list(tmp_path.glob("cells/*/*/samples-*"))


def test_a_missing_job_file_is_an_error(tmp_path: Path):
    with pytest.raises(ValueError, match="missing or torn"):
        run_job(tmp_path / "none.json")
