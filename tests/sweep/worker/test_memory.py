"""Memory that runs out: fewer rows at once give the same answers; what fits nowhere fails its samples."""

import pytest
import torch

from sparsemm.engine.generate import Engine
from sparsemm.results.store import Store
from sparsemm.sweep.worker import run_job


@pytest.fixture
def memory(monkeypatch):
    """Let the engine run out of memory where `fits(prompts, methods)` says no. Returns what was tried."""
    tried = []

    def limit(fits):
        answer = Engine.answer

        def limited(self, prompts):
            tried.append((len(prompts), len(self.selector.methods)))
            if not fits(prompts, self.selector.methods):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.\nmore words")
            return answer(self, prompts)

        monkeypatch.setattr(Engine, "answer", limited)
        return tried

    return limit


@pytest.mark.parametrize("most", [(1, 7), (2, 3), (1, 1)])
def test_fewer_rows_at_once_give_the_same_table(tmp_path, make_job, memory, undisturbed, look, most, capfd):
    tried = memory(lambda prompts, methods: len(prompts) <= most[0] and len(methods) <= most[1])
    expected = look(undisturbed("float32"))
    assert run_job(make_job(tmp_path)) == 0
    assert look(tmp_path) == expected
    failed = [one for one in tried if one[0] > most[0] or one[1] > most[1]]
    assert len(failed) <= 4, "what did not fit is not tried again and again"
    assert "Out of memory: from here on at most" in capfd.readouterr().err


def test_a_prompt_that_fits_nowhere_fails_its_samples_and_the_job_goes_on(tmp_path, make_job, memory, look):
    refused = []

    def fits(prompts, methods):
        if not refused:
            refused.append(prompts[0])
        return not any(prompt is refused[0] for prompt in prompts)

    memory(fits)
    assert run_job(make_job(tmp_path)) == 0
    for result, records in look(tmp_path).values():
        assert (result["samples"], result["failed"]) == (16, 1)
        reasons = [record["error"] for record in records.values() if record["error"]]
        assert reasons == [
            "out of memory: CUDA out of memory. Tried to allocate 3.00 GiB. "
            "One prompt under one cell does not fit."
        ]


def test_where_nothing_fits_the_cells_say_so(tmp_path, make_job, memory):
    memory(lambda prompts, methods: False)
    job = make_job(tmp_path)
    assert run_job(job) == 7
    reasons = set(Store(tmp_path).failures(Store(tmp_path).fingerprints()).values())
    assert len(reasons) == 1
    assert next(iter(reasons)).startswith("every sample failed; first: out of memory: CUDA out of memory.")
