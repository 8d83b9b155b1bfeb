"""A verdict on the paper rests on cells that are set up as the paper's, and on no others."""

import pytest

from sparsemm.sweep.grid import make_grid
from sparsemm.sweep.published import mark_published

PAPER = ["model=qwen2_vl_7b", "task=textvqa", "method=snapkv", "budget=256"]


@pytest.mark.parametrize(
    ("changes", "published"),
    [
        ([], True),
        (["rounding=paper", "model.attention=flash_attention_2", "model.revision=abc"], True),
        (["task.limit=10"], True),  # `whole` tells of it
        (["engine.batch_prompts=2"], True),
        (["protocol=lmms_eval"], False),
        (["model.max_pixels=100000"], False),
        (["model.dtype=float16"], False),
        (["model.path=other/model"], False),
        (["task.max_new_tokens=5"], False),
        (["mask=random", "mask.share=0.1"], False),
        (["smoke=true"], False),
        (["model=tiny", "task=documents"], True),  # of no paper: no statement names it
    ],
)
def test_only_the_papers_settings_are_published(make_composer, tmp_path, changes, published):
    grid = make_grid(make_composer(), [*PAPER, f"output={tmp_path}", *changes])
    (cell,) = mark_published(make_composer(), grid.cells)
    assert cell.published is published
