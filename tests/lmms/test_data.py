"""Benchmarks in a local folder: which files are read, and what is wrong with them."""

import shutil
import subprocess
import sys

import pytest
from PIL import Image

from sparsemm.api import compose_settings
from sparsemm.tasks.schemas import BENCHMARKS, FILES
from sparsemm.tasks.small import write_small

from .conftest import SAMPLES, make_task, rewrite

pyarrow = pytest.importorskip("pyarrow", reason="it reads the benchmarks' files: sparsemm[eval]")
parquet = pytest.importorskip("pyarrow.parquet", reason="it reads the benchmarks' files: sparsemm[eval]")


@pytest.fixture
def folder(tmp_path):
    write_small("docvqa", tmp_path / "docvqa", 3)
    return tmp_path / "docvqa"


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_ids_are_read_without_decoding_an_image(benchmark, data, task_of, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(Image, "open", refuse)
    task = task_of(benchmark, "task.scale=1.0")
    ids = [task.ids(index) for index in range(len(task))]
    assert len({sample for sample, _ in ids}) == len(task) == SAMPLES
    shared = {"textcaps": SAMPLES, "ocrbench": SAMPLES}.get(benchmark, SAMPLES // 2)
    assert len({document for _, document in ids}) == shared


def test_planning_does_not_import_lmms_eval(folder):
    settings = compose_settings("task=docvqa", f"task.data={folder}")["task"]
    code = f"""
import sys
from sparsemm.tasks.lmms import LmmsTask
task = LmmsTask(**{ ({key: value for key, value in settings.items() if key != "_target_"})!r})
assert not task.needs()
task.check()
assert (len(task), task.ids(1)[1], bool(task.data_id())) == (3, "14000", True)
assert not {{"lmms_eval", "datasets", "torch", "transformers"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_data_id_follows_the_content_and_not_the_place(folder, tmp_path):
    before = make_task("task=docvqa", f"task.data={folder}").data_id()
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    assert make_task("task=docvqa", f"task.data={moved}").data_id() == before
    rewrite(moved / FILES["docvqa"], lambda table: table.slice(0, 2))
    assert make_task("task=docvqa", f"task.data={moved}").data_id() != before


def test_a_limit_takes_the_first_questions(folder):
    assert len(make_task("task=docvqa", f"task.data={folder}", "task.limit=2")) == 2
    assert len(make_task("task=docvqa", f"task.data={folder}", "task.limit=9")) == 3
    with pytest.raises(ValueError, match=r"task\.limit=0: must be at least 1"):
        make_task("task=docvqa", f"task.data={folder}", "task.limit=0")


def test_a_whole_split_is_told_from_a_part(folder):
    assert not make_task("task=docvqa", f"task.data={folder}").whole
    assert make_task("task=docvqa", f"task.data={folder}", "task.full_samples=3").whole


def test_a_missing_folder_and_one_without_parquet_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"task\.data=.*nowhere: no such folder"):
        make_task("task=docvqa", f"task.data={tmp_path / 'nowhere'}").check()
    with pytest.raises(ValueError, match="no parquet file there"):
        make_task("task=docvqa", f"task.data={tmp_path}").check()


def test_other_splits_in_the_folder_are_left_alone(folder):
    file = folder / FILES["docvqa"]
    shutil.copy(file, file.with_name("test-00000-of-00001.parquet"))
    for inside in (folder, file.parent):
        assert len(make_task("task=docvqa", f"task.data={inside}")) == 3
    file.unlink()
    assert (
        len(make_task("task=docvqa", f"task.data={folder}")) == 3
    )  # files of other names are taken as they are


def test_words_after_a_question_are_refused_where_the_task_has_no_place_for_them(data):
    task = make_task("task=textcaps", f"task.data={data / 'textcaps'}", "task.post_prompt=Briefly.")
    with pytest.raises(ValueError, match=r"task\.post_prompt: textcaps_val has no place for it"):
        task.stop_strings  # noqa: B018


def test_an_answer_that_cannot_be_scored_is_named(tmp_path, monkeypatch):
    from lmms_eval.api.task import ConfigurableTask

    monkeypatch.setattr(ConfigurableTask.process_results.retry, "sleep", lambda seconds: None)
    write_small("textvqa", tmp_path, 2)
    rewrite(tmp_path / FILES["textvqa"], lambda table: table.drop_columns(["question_id"]))
    task = make_task("task=textvqa", f"task.data={tmp_path}")
    with pytest.raises(
        ValueError, match=r"the answer to document 1 cannot be scored \(KeyError: 'question_id'"
    ):
        task.score(task.sample(1), "no")


def test_missing_columns_are_named(folder):
    rewrite(folder / FILES["docvqa"], lambda table: table.drop_columns(["answers", "question"]))
    with pytest.raises(ValueError, match=r"validation-.*parquet has no column question, answers\. It has: "):
        make_task("task=docvqa", f"task.data={folder}").check()


def test_a_corrupt_file_is_named(folder):
    file = folder / FILES["docvqa"]
    other = file.with_name("validation-00001-of-00002.parquet")
    other.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"validation-00001-of-00002\.parquet is not a parquet file"):
        make_task("task=docvqa", f"task.data={folder}").check()


def test_a_folder_without_images_is_refused(folder):
    def empty(table):
        place = table.column_names.index("image")
        none = pyarrow.array([None] * len(table), table.schema.field("image").type)
        return table.set_column(place, table.schema.field("image"), none)

    rewrite(folder / FILES["docvqa"], empty)
    with pytest.raises(ValueError, match=r"no images in .*: column image is empty"):
        make_task("task=docvqa", f"task.data={folder}").check()


def test_an_image_that_cannot_be_read_fails_its_sample_only(folder):
    def break_one(table):
        rows = table.to_pylist()
        rows[1]["image"]["bytes"] = b"no image"
        return pyarrow.Table.from_pylist(rows, schema=table.schema)

    rewrite(folder / FILES["docvqa"], break_one)
    task = make_task("task=docvqa", f"task.data={folder}")
    task.check()
    assert [len(task.sample(index).images()) for index in (0, 2)] == [1, 1]
    with pytest.raises(ValueError, match="UnidentifiedImageError"):
        task.sample(1)


def test_files_that_do_not_say_that_a_column_holds_images_are_read_all_the_same(folder):
    rewrite(folder / FILES["docvqa"], lambda table: table.replace_schema_metadata({}))
    assert make_task("task=docvqa", f"task.data={folder}").sample(0).images()[0].size == (416, 288)


def test_gqa_with_images_in_its_rows_needs_no_second_table(tmp_path):
    write_small("gqa", tmp_path, 2)
    images = parquet.read_table(tmp_path / FILES["gqa_images"])
    shutil.rmtree((tmp_path / FILES["gqa_images"]).parent)
    with pytest.raises(ValueError, match="has no column image"):
        make_task("task=gqa", f"task.data={tmp_path}").check()
    rewrite(
        tmp_path / FILES["gqa"],
        lambda table: table.append_column("image", pyarrow.array(images["image"].to_pylist() * 2)),
    )
    task = make_task("task=gqa", f"task.data={tmp_path}")
    task.check()
    assert task.sample(1).images()[0].size == (416, 288)


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_the_papers_protocol_is_lmms_evals_own_but_for_the_split_of_vqav2(benchmark, data, task_of):
    """Where 0.7.3 agrees with the published runs, null and the number written down mean the same."""
    paper = task_of(benchmark)
    own = task_of(benchmark, "protocol=lmms_eval", *(["task.files=null"] if benchmark == "vqav2" else []))
    assert [paper.sample(index).question for index in range(2)] == [
        own.sample(index).question for index in range(2)
    ]
    assert (paper.answer_tokens, paper.stop_strings) == (own.answer_tokens, own.stop_strings)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("docvqa_vall", r"lmms-eval has no such task\. Did you mean docvqa_val"),
        ("docvqa", r"a group of tasks\. Choose one: docvqa_val, docvqa_test"),
        ("hellaswag", r"its output_type is multiple_choice, and only generate_until"),
        ("mantis", r"it asks for do_sample=True, and answers are greedy here"),
    ],
)
def test_a_task_that_cannot_be_asked_is_refused(name, words, folder):
    with pytest.raises(ValueError, match=words):
        make_task("task=lmms", f"task.name={name}", f"task.data={folder}").check()


def test_a_torn_image_stays_an_error_after_lmms_eval_was_imported():
    """Importing lmms_eval tells Pillow to fill what is missing with grey."""
    code = """
from PIL import ImageFile
from sparsemm.tasks.lmms_harness import _library
assert _library() is not None
assert not ImageFile.LOAD_TRUNCATED_IMAGES
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
