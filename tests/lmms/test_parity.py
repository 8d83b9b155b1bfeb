"""Our scores are lmms-eval's own, to the last digit, for the same answers and for the same model."""

import math

import pytest

from sparsemm.config import build_method, build_model
from sparsemm.engine.generate import Engine

from .conftest import ALL, SAMPLES, Given, evaluate, make_task, records_of, score_of

MINORITY = -1  # of the ten answers that people gave: worth less than 1
ANSWERS = {  # which reference is given as the answer, a text, or None: nothing that is right
    "docvqa": [0, 1, None, "bxbx ct", 0, None],
    "ocrbench": ["it says {0}, twice", 0, None, None, 0, 0],
    "textvqa": [0, MINORITY, None, 0, MINORITY, "{0}."],
    "chartqa": [0, "{0}.1", None, 0, None, "{0}%"],
    "textcaps": [0, 3, None, "a light page with {0}", 1, "text"],
    "mmbench": [0, "({0})", 0, None, "The answer is {0}.", 0],
    "gqa": ["{0}.", 0, None, 0, "Yes", "No"],
    "vqav2": [0, MINORITY, "{0}\n", None, MINORITY, "the {0}"],
}


def given_answers(benchmark, task):
    answers = []
    for index, kind in enumerate(ANSWERS[benchmark]):
        references = task.sample(index).references
        answer = references[kind] if isinstance(kind, int) else (kind or "nothing").format(references[0])
        answers.append(answer)
    return answers


def scaled(benchmark, score):
    """What our scale makes of lmms-eval's number: percentages and OCRBench's fixed 1000."""
    factor = {"mmbench": 0.01}.get(benchmark, 1.0)
    return score * factor * 1000 / SAMPLES if benchmark == "ocrbench" else score * factor


@pytest.fixture(scope="module")
def plugin(small_model):
    """The model as lmms-eval has it."""
    from sparsemm.lmms_plugin import SparseMM

    return SparseMM(pretrained=str(small_model), method="full", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def loaded_small(plugin):
    """The same model as a worker has it."""
    return build_model(plugin.settings).load(plugin.device)


@pytest.fixture(scope="module")
def method(plugin):
    return build_method(plugin.settings)


@pytest.mark.parametrize("benchmark", ALL)
def test_the_score_of_given_answers_is_lmms_evals_own(benchmark, data, task_of, tmp_path, monkeypatch):
    task = task_of(benchmark)
    answers = given_answers(benchmark, task)
    records = records_of(task, answers)
    score, shares = task.total(records)
    monkeypatch.chdir(tmp_path)
    theirs = score_of(evaluate(Given(answers), benchmark, data), task)
    assert score == scaled(benchmark, theirs)
    assert 0 < score < (10 if benchmark == "textcaps" else 1)
    counted = [share for share in shares if share is not None]
    assert len(counted) == (SAMPLES // 2 if benchmark == "mmbench" else SAMPLES)
    assert len(set(counted)) > 1
    assert math.isclose(math.fsum(counted) / len(counted), score, rel_tol=1e-12)
    if benchmark not in ("textcaps", "mmbench"):
        assert [record["score"] for record in records] == shares


@pytest.mark.parametrize("benchmark", ALL)
def test_the_score_of_the_full_cache_is_lmms_evals_own(
    benchmark, data, plugin, loaded_small, method, task_of, tmp_path, monkeypatch
):
    loaded = loaded_small
    task = task_of(benchmark, "task.max_new_tokens=5")
    engine = Engine(loaded, [method], task.answer_tokens, stop_strings=task.stop_strings)
    samples = [task.sample(index) for index in range(len(task))]
    prompts = [loaded.prompt(sample.images(), sample.question) for sample in samples]
    ours = [loaded.text(answer.token_ids, answer.stop_strings) for (answer,) in engine.answer(prompts)]
    score, _ = task.total(records_of(task, ours))
    monkeypatch.chdir(tmp_path)
    theirs = evaluate(plugin, benchmark, data, gen_kwargs="max_new_tokens=5", log_samples=True)
    logged = [one["filtered_resps"][0] for one in theirs["samples"][task.task]]
    assert logged == ours
    assert len(set(ours)) > 1
    assert score == scaled(benchmark, score_of(theirs, task))


def test_ocrbench_counts_begin_at_zero_for_every_cell(task_of):
    task = task_of("ocrbench")
    records = records_of(task, given_answers("ocrbench", task))
    assert task.total(records)[0] == task.total(records)[0]


def test_samples_with_an_error_have_no_share(task_of):
    task = task_of("docvqa")
    records = records_of(task, given_answers("docvqa", task))
    broken = [{**records[0], "answer": None, "score": None, "error": "no image"}, *records[1:]]
    score, shares = task.total(broken)
    assert shares[0] is None
    assert score == pytest.approx(math.fsum(shares[1:]) / (SAMPLES - 1))
    nothing = [{**record, "answer": None, "error": "no image"} for record in records]
    assert task.total(nothing) == (None, [None] * SAMPLES)


def test_a_task_by_its_lmms_eval_name_scores_like_its_own_option(data, task_of):
    own = task_of("docvqa")
    named = make_task("task=lmms", "task.name=docvqa_val", f"task.data={data / 'docvqa'}")
    answers = given_answers("docvqa", own)
    assert named.name == "docvqa_val"
    assert named.total(records_of(named, answers)) == own.total(records_of(own, answers))
    assert (named.answer_tokens, named.stop_strings) == (32, ("\n\n",))
    assert named.sample(1).question == own.sample(1).question
