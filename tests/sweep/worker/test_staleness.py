"""A cell whose head scores changed between its job file and its worker gets no result under the old name."""

import json
from pathlib import Path

import pytest

from sparsemm.results.store import Store
from sparsemm.sweep.cells import MISSING
from sparsemm.sweep.worker import run_job

FEW = ["method=snapkv,sparsemm", "budget=8", "task.limit=2", "task=documents"]


@pytest.fixture
def heads(tmp_path, model):
    """A copy of the model's head scores, to change."""
    file = tmp_path / "heads.json"
    file.write_text(Path(model[1].partition("=")[2]).read_text())
    return file


def _rewrite(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _ended(job, root):
    cells = {entry["label"]["method"]: entry["fingerprint"] for entry in json.loads(job.read_text())["cells"]}
    return {method: Store(root).cell(name) for method, name in cells.items()}


@pytest.mark.parametrize("gone", [False, True])
def test_head_scores_that_changed_since_submission_fail_their_cells_only(tmp_path, make_job, heads, gone):
    job = make_job(tmp_path / "store", f"model.head_scores={heads}", *FEW)
    if gone:
        heads.unlink()
    else:
        _rewrite(heads, scores=[[8.0 - head for head in range(8)]] * 2)
    assert run_job(job) == 1
    ended = _ended(job, tmp_path / "store")
    assert ended["sparsemm"].result() is None and not ended["sparsemm"].samples().records
    assert f"{heads}: head scores changed since submission." in ended["sparsemm"].failure()
    assert ended["snapkv"].failure() is None and ended["snapkv"].result() is not None


def test_the_same_scores_found_again_change_nothing(tmp_path, make_job, heads):
    job = make_job(tmp_path / "store", f"model.head_scores={heads}", *FEW, "mask=visual", "mask.share=0.3")
    _rewrite(heads, found="later")
    assert run_job(job) == 0


def test_a_cell_under_a_name_that_stands_for_missing_scores_is_not_run(tmp_path, make_job, heads):
    content = heads.read_text()
    heads.unlink()
    job = make_job(tmp_path / "store", f"model.head_scores={heads}", *FEW)
    heads.write_text(content)
    assert MISSING in job.read_text()
    assert run_job(job) == 1
    ended = _ended(job, tmp_path / "store")
    assert "Run the sweep's command again." in ended["sparsemm"].failure()
    assert ended["sparsemm"].result() is None and ended["snapkv"].result() is not None
