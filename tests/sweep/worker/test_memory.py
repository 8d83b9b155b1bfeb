"""Memory that runs out: fewer rows at once give the same answers; what fits nowhere fails its samples."""

from types import SimpleNamespace

import pytest
import torch

from sparsemm.engine.generate import Engine
from sparsemm.engine.memory import is_out_of_memory
from sparsemm.results.store import Store
from sparsemm.sweep.answering import Answering, RunningCell
from sparsemm.sweep.grid import make_grid
from sparsemm.sweep.jobs import group_into_jobs, write_job
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
    assert "Out of memory with 2 prompts of up to" in capfd.readouterr().err


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


def test_one_large_prompt_does_not_slow_the_others_down():
    calls = []

    class OnePromptIsTooLarge:
        def __init__(self, methods):
            self.methods = methods

        def answer(self, prompts):
            calls.append(len(prompts))
            if any(prompt.tokens > 10_000 for prompt in prompts):
                raise torch.OutOfMemoryError("no room")
            return [["answer"] * len(self.methods) for _ in prompts]

    cells = [
        RunningCell({"fingerprint": str(number)}, number, folder=None, done=set()) for number in range(31)
    ]
    answering = Answering(OnePromptIsTooLarge, fail=None)
    batch = {place: SimpleNamespace(tokens=2_400) for place in range(8)}
    found = list(answering.answers({**batch, 3: SimpleNamespace(tokens=16_000)}, cells))
    answered = {(place, cell.entry["fingerprint"]) for some, one in found for cell in some for place in one}
    assert len(answered) == 8 * 31, "everything has an answer or a reason"
    reasons = [one[3] for _, one in found if isinstance(one.get(3), str)]
    assert reasons == ["out of memory: no room. One prompt under one cell does not fit."] * 31
    calls.clear()
    assert len(list(answering.answers(batch, cells))) == 1
    assert calls == [8]


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_libraries_run_out_of_memory_in_their_own_words(error):
    assert is_out_of_memory(error)
    assert not is_out_of_memory(ValueError(str(error)))


@pytest.mark.parametrize(
    "words", ["CUDA error: an illegal memory access was encountered", "out of resource: shared memory"]
)
def test_other_errors_are_not_taken_for_it(words):
    assert not is_out_of_memory(RuntimeError(words))


def test_a_broken_gpu_ends_the_job_and_blames_no_sample(tmp_path, make_job, monkeypatch, capfd):
    def broken(self, prompts):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Engine, "answer", broken)
    assert run_job(make_job(tmp_path)) == 7
    store = Store(tmp_path)
    assert set(store.failures(store.fingerprints()).values()) == {
        "RuntimeError: CUDA error: an illegal memory access was encountered"
    }
    assert not list(tmp_path.glob("cells/*/*/samples-*")), "no sample is recorded as unanswerable"


def test_a_shard_that_fails_is_not_forgotten_by_the_next(tmp_path, make_composer, model, worker_settings):
    (job,) = group_into_jobs(make_grid(make_composer(), [*model, *worker_settings, "method=full"]).cells)
    first, second = (write_job(Store(tmp_path), "s", n, job, {}, (n, 2)) for n in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "answer", lambda self, prompts: 1 / 0)
        assert run_job(first) == 1
    assert run_job(second) == 0
    store = Store(tmp_path)
    assert list(store.failures(store.fingerprints()).values()) == ["ZeroDivisionError: division by zero"]
    assert run_job(first) == 0
    assert not store.failures(store.fingerprints())
    assert len(store.results()) == 1
