"""Head scores of another model, or found on the images that are asked about, are refused."""

import json
from dataclasses import dataclass

import pytest

from sparsemm.config import build
from sparsemm.heads.data.base import image_id
from sparsemm.sweep import leakage
from sparsemm.sweep.grid import make_grid
from sparsemm.sweep.leakage import Leakage, notes
from sparsemm.tasks.base import Sample, Task
from sparsemm.tasks.pages import PageSpec, make_page


@dataclass(frozen=True, kw_only=True)
class Pages(Task):
    """Two questions about each of three pages; the last page cannot be read."""

    max_new_tokens: int = 4

    def data_id(self):
        return "pages"

    def __len__(self):
        return 6

    def ids(self, index):
        return f"q{index}", f"COCO_val2014_00000000000{index // 2 + 1}"

    def sample(self, index):
        if index // 2 == 2:
            raise ValueError("cannot be read")
        return Sample(*self.ids(index), "?", (), lambda: [page(index // 2)])

    def score(self, sample, answer):
        return 0.0


def page(index):
    return make_page("heads", PageSpec("document", 160, 112, (3, 3), (12, 14)), index).image


@pytest.fixture
def cell(tmp_path):
    """Settings of a cell with a head file of this content, and the file."""
    leakage._content.cache_clear()

    def make(**content):
        file = tmp_path / "heads.json"
        file.write_text(json.dumps({"format": 1, "scores": [[1.0]], **content}))
        node = {"_target_": "sparsemm.heads.files.load_head_scores", "path": str(file)}
        return {"allocator": {"_target_": "x", "head_scores": node}, "mask": {}}, str(file)

    return make


def test_a_shared_image_is_named(cell):
    settings, file = cell(data="folder/mine/1", images=[image_id(page(1)), "0" * 16])
    reason = Leakage(Pages(name="pages"), range(6)).reason(settings)
    assert reason == (
        f"model.head_scores={file}: its scores were found on 1 of the images that task=pages asks about "
        "(COCO_val2014_000000000002). Find the scores on other data."
    )


def test_other_images_and_imported_files_are_no_reason(cell):
    task = Pages(name="pages")
    for content in ({"data": "folder/mine/1", "images": ["0" * 16]}, {"data": "imported", "images": []}, {}):
        assert Leakage(task, range(6)).reason(cell(**content)[0]) is None
        leakage._content.cache_clear()


def test_images_are_looked_at_once_each_and_not_where_pages_are_apart(cell, monkeypatch):
    seen = []
    monkeypatch.setattr(leakage, "image_id", lambda image: seen.append(1) or "f" * 16)
    settings, _ = cell(data="folder/mine/1", images=["0" * 16])
    looked = Leakage(Pages(name="pages"), range(6))
    looked.reason(settings), looked.reason(settings)
    assert len(seen) == 2
    leakage._content.cache_clear()
    monkeypatch.setattr(Pages, "data_id", lambda self: "synthetic-1")
    settings, _ = cell(data="synthetic-1/heads/document/256x256/12", images=["f" * 16])
    assert Leakage(Pages(name="pages"), range(6)).reason(settings) is None and len(seen) == 2


def test_coco_ids_say_how_many_images_vqav2_shares(cell):
    _, file = cell(data="coco/val/1", model="m", ids=["2", "3", "9"])
    (said,) = notes(file, Pages(name="vqav2 smoke"))
    assert "3 COCO images: 2 of the 3 images of vqav2 are among them" in said
    (said,) = notes(file, Pages(name="gqa"))
    assert "Visual Genome's, so which ones is not known" in said
    assert notes(file, Pages(name="docvqa")) == []


def test_a_file_without_a_model_is_used_and_said(cell):
    _, file = cell()
    (said,) = notes(file, Pages(name="docvqa"))
    assert said.startswith(f"{file} does not say on which model")


def test_scores_of_another_model_are_refused_with_both_named(make_composer, model, model_folder, tmp_path):
    content = json.loads((model_folder / "heads.json").read_text())
    file = tmp_path / "heads.json"
    file.write_text(json.dumps({**content, "model": "0123456789", "name": "theirs"}))
    arguments = [*model, f"model.head_scores={file}"]
    words = r"scores of theirs \(content 0123456789\), but model=tiny is another one \(content [0-9a-f]+\)"
    for more in (["method=sparsemm"], ["method=full", "mask=visual", "mask.share=0.2"]):
        with pytest.raises(ValueError, match=words):
            make_grid(make_composer(*more), [*arguments, *more])
    (cell,) = make_grid(make_composer(), [*arguments, "method=snapkv"]).cells
    own = build(cell.settings["model"]).content_id()
    file.write_text(json.dumps({**content, "model": own}))
    assert make_grid(make_composer(), [*arguments, "method=sparsemm"]).cells
