"""Head-score files are read strictly."""

import json

import pytest
import torch

from sparsemm.heads.files import load_head_scores, read_head_file


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
    with pytest.raises(ValueError, match=r"model.head_scores=.*: no such file. Find the scores with"):
        load_head_scores(str(tmp_path / "none.json"))
    with pytest.raises(ValueError, match=r"model.head_scores=.*: no such file"):
        load_head_scores(str(tmp_path))
    with pytest.raises(ValueError, match=r"model.head_scores=null: .* Find them with"):
        load_head_scores(None)
