"""Benchmarks in the hub cache: what of a repository is read, and when it is all there."""

import shutil

import pytest

from sparsemm.api import compose_settings
from sparsemm.sweep.cells import CellMaker
from sparsemm.tasks.schemas import FILES
from sparsemm.tasks.small import write_small

from .conftest import make_task, rewrite

pytest.importorskip("pyarrow", reason="it reads the benchmarks' files: sparsemm[eval]")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARD = """---
configs:
- config_name: DocVQA
  data_files:
  - {split: validation, path: DocVQA/validation-*}
---
"""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty hub cache; calling it puts a benchmark's files there, as snapshot_download does."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def bring(benchmark, repo):
        cache = tmp_path / "hub" / f"datasets--{repo.replace('/', '--')}"
        write_small(benchmark, cache / "snapshots" / COMMIT, 3)
        (cache / "refs").mkdir()
        (cache / "refs" / "main").write_text(COMMIT)
        return cache / "snapshots" / COMMIT

    return bring


def test_data_comes_from_the_hub_cache(hub):
    task = make_task("task=docvqa")
    (need,) = task.needs()
    assert str(need) == (
        "data of docvqa_val (lmms-lab-encoder/DocVQA, DocVQA/validation-*.parquet): "
        "sparsemm prefetch task=docvqa"
    )
    folder = hub("docvqa", "lmms-lab-encoder/DocVQA")
    assert not task.needs()
    task.check()
    assert (len(task), task.sample(0).question.splitlines()[0]) == (3, "What is the value of pk?")
    assert task.data_id() == make_task("task=docvqa", f"task.data={folder}").data_id()


def test_a_task_by_name_takes_its_repository_from_the_hub_cache(hub):
    task = make_task("task=lmms", "task.name=docvqa_val")
    (need,) = task.needs()
    assert str(need) == (
        "data of docvqa_val (lmms-lab-encoder/DocVQA): sparsemm prefetch task=lmms task.name=docvqa_val"
    )
    folder = hub("docvqa", "lmms-lab-encoder/DocVQA")
    (folder / "README.md").write_text(CARD)
    assert not task.needs()
    task.check()
    assert (len(task), task.sample(2).images()[0].size) == (3, (416, 288))
    assert task.data_id() == make_task("task=docvqa", f"task.data={folder}").data_id()


def test_a_part_that_has_not_arrived_is_missing(hub):
    folder = hub("textvqa", "lmms-lab-encoder/textvqa") / "data"
    (folder / "validation-00000-of-00001.parquet").rename(folder / "validation-00000-of-00002.parquet")
    task = make_task("task=textvqa")
    assert [need.kind for need in task.needs()] == ["data"]
    shutil.copy(folder / "validation-00000-of-00002.parquet", folder / "validation-00001-of-00002.parquet")
    assert not task.needs()
    assert len(task) == 6


def test_a_task_by_name_is_not_scored_on_a_partial_download(hub):
    """A card alone, another split, or one of three parts: the data is still to be brought."""
    folder = hub("docvqa", "lmms-lab-encoder/DocVQA")
    part = folder / FILES["docvqa"]
    content = part.read_bytes()
    task = make_task("task=lmms", "task.name=docvqa_val")

    def needs(card, *names):
        shutil.rmtree(part.parent, ignore_errors=True)
        part.parent.mkdir()
        (folder / "README.md").write_text(card)
        for name in names:
            (part.parent / name).write_bytes(content)
        return [need.kind for need in task.needs()]

    assert needs("") == needs(CARD) == needs(CARD, "test-00000-of-00001.parquet") == ["data"]
    assert needs(CARD, "validation-00000-of-00003.parquet") == ["data"]
    with pytest.raises(ValueError, match=r"task=docvqa_val: data of docvqa_val .*: sparsemm prefetch"):
        task.sample(0)
    for ending in ("", "-{0}123456789abcdef"):
        parts = [f"validation-0000{n}-of-00003{ending.format(n)}.parquet" for n in range(3)]
        assert needs(CARD, *parts[1:]) == ["data"]
        assert needs(CARD, *parts) == []


def test_other_files_of_a_repository_are_other_data(hub):
    folder = hub("chartqa", "lmms-lab-encoder/ChartQA")
    write_small("chartqa", folder / "more", 2)
    (folder / "more" / FILES["chartqa"]).rename(folder / "data" / "val-00000-of-00001.parquet")
    names = [["task=chartqa", f"task.files=[data/{name}-*.parquet]"] for name in ("test", "val")]
    assert [len(make_task(*name)) for name in names] == [3, 2]
    cells = [CellMaker().cell(compose_settings("method=full", *name)) for name in (["task=chartqa"], *names)]
    assert cells[0].fingerprint == cells[1].fingerprint != cells[2].fingerprint


def test_what_a_repository_says_about_its_files_does_not_change_the_data(hub):
    folder = hub("docvqa", "lmms-lab-encoder/DocVQA")
    for name in ("task=docvqa", "task=lmms task.name=docvqa_val"):
        task = make_task(*name.split())
        (folder / "README.md").write_text(CARD)
        before = task.data_id()
        (folder / "README.md").write_text(CARD + "\nOther words.\n")
        shutil.copy(folder / FILES["docvqa"], folder / "DocVQA" / "test-00000-of-00001.parquet")
        assert task.data_id() == before
        rewrite(folder / FILES["docvqa"], lambda table: table.slice(1))
        assert task.data_id() != before


def test_the_protocol_chooses_the_split(hub):
    paper, own = make_task("task=vqav2"), make_task("task=vqav2", "protocol=lmms_eval")
    assert [(task.task, task.datasets()[0][0], task.full_samples) for task in (paper, own)] == [
        ("vqav2_val_lite", "lmms-lab-encoder/LMMs-Eval-Lite", 500),
        ("vqav2_val", "lmms-lab-encoder/VQAv2", 214354),
    ]


def test_missing_packages_and_java_are_needs(monkeypatch, hub):
    monkeypatch.setattr("sparsemm.tasks.lmms.find_spec", lambda name: None)
    monkeypatch.setattr("sparsemm.tasks.lmms.shutil.which", lambda name: None)
    needs = make_task("task=textcaps").needs()
    assert [need.kind for need in needs] == ["package", "program", "data"]
    assert "pip install --no-deps lmms-eval==0.7.3" in needs[0].how
    assert [need.kind for need in make_task("task=lmms", "task.name=ai2d").needs()] == ["package"]
