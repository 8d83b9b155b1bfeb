"""A verdict on the paper rests on results that are set up as the paper's, and on no others."""

import json

import pytest

from sparsemm.sweep.grid import make_grid
from sparsemm.sweep.published import Published

PAPER = ["model=qwen2_vl_7b", "task=textvqa", "method=snapkv", "budget=256"]
HUB = "Qwen/Qwen2-VL-7B-Instruct"


@pytest.fixture
def published(make_composer, tmp_path, monkeypatch):
    """Whether the result of a cell with some changes counts as published."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    heads = tmp_path / "heads.json"
    heads.write_text(json.dumps({"format": 1, "scores": [[1.0] * 28] * 28}))

    def check(*changes, source=HUB):
        arguments = [*PAPER, f"output={tmp_path}", f"model.head_scores={heads}", *changes]
        (cell,) = make_grid(make_composer(), arguments).cells
        result = {"identity": cell.identity, "label": cell.label, "provenance": {"model": source}}
        return Published(make_composer()).check(json.loads(json.dumps(result)))

    return check


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["rounding=paper", "model.attention=flash_attention_2", "model.revision=abc"],
        ["method=sparsemm", "rho=0.3"],
        ["method=random", "seed=3"],
        ["method=full"],
        ["method=window", "method.window=256"],
        ["task.limit=10"],  # `whole` in the result tells of it
        ["engine.batch_prompts=2", "engine.threads=1"],
    ],
)
def test_the_papers_settings_are_published(published, changes):
    assert published(*changes)


@pytest.mark.parametrize(
    "changes",
    [
        ["protocol=lmms_eval"],
        ["model.max_pixels=100000"],
        ["model.dtype=float16"],
        ["task.max_new_tokens=5"],
        ["mask=random", "mask.share=0.1"],
        ["scorer.pool_kernel=63"],
        ["scorer=recent"],
        ["method.sinks=16"],
        ["method.window=16"],
        ["method=pyramidkv", "allocator.beta=2"],
        ["method=sparsemm", "allocator=uniform"],
        ["engine.rows=1"],
        ["smoke=true"],
    ],
)
def test_any_other_setting_is_not_published(published, changes):
    assert not published(*changes)


def test_weights_from_elsewhere_are_not_published(published):
    assert not published(source="/models/a-fine-tune")
