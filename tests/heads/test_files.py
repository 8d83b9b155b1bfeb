"""Head-score files are read strictly; the paper's own files are converted and checked against the model."""

import json

import pytest
import torch

from sparsemm.heads.files import import_heads, load_head_scores, read_head_file
from sparsemm.methods.base import ModelShape

SHAPE = ModelShape(layers=2, query_heads=2, kv_heads=1, head_dim=8)


def test_scores_are_read_as_they_were_written(tmp_path):
    file = tmp_path / "heads.json"
    file.write_text(json.dumps({"format": 1, "scores": [[0, 0.5], [1.25, 2]], "images": ["ab"]}))
    scores = load_head_scores(str(file))
    assert scores.dtype == torch.float32
    assert scores.tolist() == [[0, 0.5], [1.25, 2]]
    assert read_head_file(str(file))["images"] == ["ab"]


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", r"model.head_scores=.*: not valid JSON \(.*\). Find the scores again"),
        ("[]", r"not a head-score file of format 1"),
        ("{}", r"not a head-score file of format 1"),
        ('{"scores": [[1]]}', r"not a head-score file of format 1"),
        ('{"format": 2, "scores": [[1]]}', r"not a head-score file of format 1"),
        ('{"format": 1, "scores": [[1, 2], [3]]}', r"scores must be numbers, \[layers\]\[query heads\]"),
        ('{"format": 1, "scores": [["a"]]}', r"scores must be numbers"),
        ('{"format": 1, "scores": {"0-0": [1]}}', r"scores must be numbers"),
        ('{"format": 1, "scores": null}', r"scores must be numbers"),
        ('{"0-0": [1, 2], "0-1": [3]}', r"a file of the paper's code, by layer and head. Convert it"),
    ],
)
def test_a_file_that_holds_no_scores_is_refused(tmp_path, content, message):
    file = tmp_path / "heads.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        load_head_scores(str(file))


def test_a_file_that_is_not_text_is_refused(tmp_path):
    file = tmp_path / "heads.json"
    file.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ValueError, match=r"model.head_scores=.*: not valid JSON"):
        load_head_scores(str(file))


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(ValueError, match=r"model.head_scores=.*: no such file. Find them with"):
        load_head_scores(str(tmp_path / "none.json"))
    with pytest.raises(ValueError, match=r"model.head_scores=.*: no such file"):
        load_head_scores(str(tmp_path))
    with pytest.raises(ValueError, match=r"model.head_scores=null: .* Find them with"):
        load_head_scores(None)


def test_the_papers_files_become_means_by_layer_and_head(tmp_path):
    file, out = tmp_path / "llava.json", tmp_path / "new" / "heads.json"
    file.write_text(json.dumps({"0-0": [1, 2], "1-0": [0.5, 0], "0-1": [0, 0], "1-1": [4, 4]}))
    import_heads(file, out, SHAPE, "abc", "llava")
    assert load_head_scores(str(out)).tolist() == [[1.5, 0], [0.25, 4]]
    content = read_head_file(str(out))
    assert content["samples"] == 2 and content["model"] == "abc" and content["images"] == []
    assert content["data"].startswith("imported from llava.json, sha256 ")


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", r"import=.*: cannot be read"),
        ("[]", r'import=.*: expected \{"layer-head": \[score, ...\]\}'),
        ("{}", r"expected"),
        ('{"0-0": 1}', r"expected"),
        ('{"0": [1]}', r"expected"),
        ('{"a-b": [1]}', r"expected"),
        ('{"0-0": ["x"]}', r"expected"),
        (
            '{"0-0": [1]}',
            r"scores of 1 heads, \[1, 1\] \(layers, query heads\), but model=llava has \[2, 2\]",
        ),
        ('{"0-0": [1], "1-1": [1]}', r"scores of 2 heads, \[2, 2\] .* but model=llava has \[2, 2\]"),
    ],
)
def test_scores_of_another_form_or_model_are_not_imported(tmp_path, content, message):
    file, out = tmp_path / "llava.json", tmp_path / "heads.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        import_heads(file, out, SHAPE, "abc", "llava")
    assert not out.exists()
