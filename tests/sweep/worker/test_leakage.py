"""A cell whose head scores were found on the images that are asked about fails alone."""

import json
from pathlib import Path

from sparsemm.heads.data.base import image_id
from sparsemm.results.store import Store
from sparsemm.sweep.worker import run_job
from sparsemm.tasks.pages import SHARED_FONTS, PageSpec, make_page


def test_a_cell_that_asks_about_the_searchs_images_fails_and_the_others_run(make_job, tmp_path, model):
    scores = json.loads(Path(model[1].partition("=")[2]).read_text())
    file = tmp_path / "leaking.json"
    page = {"width": 96, "height": 48, "font_size": (12, 14), "entries": (2, 2)}
    seen = make_page("eval", PageSpec("document", **page, fonts=SHARED_FONTS), 3).image
    file.write_text(json.dumps({**scores, "data": "folder/x/1", "images": [image_id(seen)]}))
    job = make_job(tmp_path / "store", f"model.head_scores={file}")
    assert run_job(job) == 2  # SparseMM at two budgets
    store = Store(tmp_path / "store")
    entries = json.loads(job.read_text())["cells"]
    for entry in entries:
        folder = store.cell(entry["fingerprint"])
        leaks = entry["label"]["method"] == "sparsemm"
        assert (folder.failure() is not None) == leaks and (folder.result() is None) == leaks
        assert not leaks or "found on 1 of the images that task=documents asks about" in str(folder.failure())
