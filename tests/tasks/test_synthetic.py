"""Synthetic tasks: questions, references and scores follow from the configuration alone."""

import pickle

import pytest

from sparsemm.tasks.pages import make_page, owner, png_sha256
from sparsemm.tasks.synthetic import READ_ALL, Charts, Documents, Reading

PAGE = {"width": 256, "height": 256, "entries": [6, 9], "font_size": [12, 15]}


def task(cls, **changes):
    fields = {"name": cls.__name__.lower(), "limit": 8, "questions": 1 if cls is Reading else 2}
    fields |= {"max_new_tokens": 8, "page": PAGE, "first": 0}
    return cls(**{**fields, **changes})


@pytest.mark.parametrize(
    "cls, metric", [(Documents, "anls"), (Reading, "accuracy"), (Charts, "relaxed_accuracy")]
)
def test_the_reference_answers_its_question(cls, metric):
    one = task(cls)
    one.check()
    assert one.metric == metric
    assert len(one) == 8 * one.questions
    samples = [one.sample(index) for index in range(len(one))]
    assert len({sample.id for sample in samples}) == len(one)
    assert len({sample.document for sample in samples}) == 8
    for index, sample in enumerate(samples):
        page = make_page("eval", one.spec, index // one.questions)
        assert sample.images()[0].mode == "RGB"
        assert sample.images()[0].convert("L").tobytes() == page.image.tobytes()
        assert one.score(sample, sample.references[0]) == 1.0
        assert one.score(sample, "") == 0.0
        if cls is Reading:
            assert (sample.question, sample.references) == (READ_ALL, (page.text,))
        else:
            assert (sample.question.rstrip("?"), sample.references[0]) in page.pairs
            assert owner(sample.references[0]) == "eval"


def test_questions_about_a_page_differ():
    one = task(Documents, questions=6)
    for page in range(8):
        assert len({one.sample(page * 6 + which).question for which in range(6)}) == 6


def test_samples_do_not_depend_on_the_limit_and_follow_first():
    small, large, later = task(Documents), task(Documents, limit=50), task(Documents, first=3)
    assert [small.sample(i) for i in range(16)] == [large.sample(i) for i in range(16)]
    assert later.sample(0) == small.sample(6)
    assert png_sha256(later.sample(0).images()[0]) == png_sha256(small.sample(6).images()[0])


def test_a_wrong_answer_scores_less():
    documents, charts, reading = task(Documents), task(Charts), task(Reading)
    assert documents.score(documents.sample(0), "zzzz") == 0.0
    sample = charts.sample(0)
    value = int(sample.references[0])
    assert charts.score(sample, str(round(value * 1.04))) == 1.0
    assert charts.score(sample, str(value * 2)) == 0.0
    text = reading.sample(0).references[0]
    assert reading.score(reading.sample(0), f"It says {text.upper()}!") == 1.0
    assert reading.score(reading.sample(0), text[:-1]) == 0.0


@pytest.mark.parametrize(
    "cls, change, message",
    [
        (Documents, {"limit": 0}, r"task.limit=0: must be at least 1"),
        (Documents, {"questions": 0}, r"task.questions=0: must be at least 1"),
        (Documents, {"first": -1}, r"task.first=-1: must be at least 0"),
        (Documents, {"max_new_tokens": 0}, r"task.max_new_tokens=0: must be at least 1"),
        (Documents, {"questions": 7}, r"task.questions=7: a page may have as few as 6 entries"),
        (Reading, {"questions": 2}, r"task.questions=2: the reading task asks one question per page"),
        (Documents, {"page": {**PAGE, "width": 100}}, r"task.page: width=100: must be a positive"),
        (Documents, {"page": {**PAGE, "colour": 1}}, r"task.page: .*colour"),
        (Documents, {"page": {**PAGE, "width": "wide"}}, r"task.page: "),
    ],
)  # fmt: skip
def test_tasks_that_cannot_be_are_refused(cls, change, message):
    with pytest.raises(ValueError, match=message):
        task(cls, **change)


def test_a_page_without_room_is_found_before_any_work():
    with pytest.raises(ValueError, match=r"no entry fits"):
        task(Documents, page={**PAGE, "width": 16, "height": 16, "font_size": [30, 30]}).check()


def test_a_task_travels_to_another_process():
    one = task(Documents)
    again = pickle.loads(pickle.dumps(one))
    assert again == one and again.sample(3) == one.sample(3)
