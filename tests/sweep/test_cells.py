import json
from dataclasses import replace
from pathlib import Path

import pytest

from sparsemm.sweep.cells import CellMaker, with_distinct_labels
from sparsemm.sweep.errors import UnusableConfiguration
from sparsemm.sweep.grid import make_grid
from sparsemm.sweep.jobs import group_into_jobs


@pytest.fixture
def cells(make_composer, model):
    def make(*arguments: str):
        return make_grid(make_composer(), [*model, *arguments]).cells

    return make


@pytest.mark.parametrize(
    "same",
    [
        "engine.device=cpu",
        "engine.threads=1,2",
        "engine.batch_prompts=1,4",
        "engine.rows=8,16",
        "output=/a,/b",
        "model.name=other",
        "model.revision=abc,def",
        "task.name=other",
        "method.name=other",
        "rho=0.1,0.3",
        "seed=0,1",
    ],
)
def test_what_cannot_change_the_result_does_not_change_the_fingerprint(cells, same):
    (plain,) = cells("method=snapkv")
    (other,) = cells("method=snapkv", same)
    assert other.fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    "different",
    [
        "model.dtype=bfloat16",
        "model.max_pixels=4096",
        "budget=65",
        "budget=64%",
        "rho=0.2",
        "rounding=paper",
        "method.window=31",
        "method.sinks=1",
        "scorer.pool_kernel=7",
        "allocator=uniform",
        "task=charts",
        "task.limit=3",
        "task.first=1",
        "task.questions=1",
        "task.max_new_tokens=9",
        "task.page.width=320",
    ],
)
def test_what_can_change_the_result_changes_the_fingerprint(cells, different):
    (plain,) = cells("method=sparsemm")
    (other,) = cells("method=sparsemm", different)
    assert other.fingerprint != plain.fingerprint


def test_rows_count_where_the_dtype_makes_results_depend_on_them(cells):
    assert len(cells("method=snapkv", "engine.rows=8,16", "model.dtype=bfloat16")) == 2
    assert len(cells("method=snapkv", "engine.rows=8,16", "model.dtype=float32")) == 1


def test_the_full_cache_is_one_cell_whatever_the_grid(cells):
    grid = ["budget=33,64", "rho=0.1,0.2", "seed=0,1", "scorer=recent,window_attention", "method.window=4,8"]
    (cell,) = cells("method=full", *grid, "rounding=exact,paper")
    assert {key for key, value in cell.label.items() if value is not None} == {
        "model",
        "task",
        "method",
        "allocator",
    }


def test_each_method_has_the_cells_of_the_parameters_that_it_uses(cells):
    found = cells("method=full,snapkv,sparsemm,random", "rho=0.1,0.3", "seed=0,1")
    methods = [cell.label["method"] for cell in found]
    assert [methods.count(name) for name in ("full", "snapkv", "sparsemm", "random")] == [1, 1, 2, 4]


def test_whole_and_decimal_numbers_are_one_setting(cells):
    assert len(cells("method=adakv", "allocator.floor=1,1.0")) == 1


def test_head_scores_and_weights_count_by_content_not_by_path(cells, model_folder, tmp_path):
    (plain,) = cells("method=sparsemm")
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in model_folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    here = [f"model.path={copy}", f"model.head_scores={copy}/heads.json"]
    assert cells("method=sparsemm", *here)[0].fingerprint == plain.fingerprint
    scores = json.loads((copy / "heads.json").read_text())
    scores["scores"][0][0] = 9.0
    (copy / "other.json").write_text(json.dumps(scores))
    changed = [here[0], f"model.head_scores={copy}/other.json"]
    assert cells("method=sparsemm", *changed)[0].fingerprint != plain.fingerprint
    assert cells("method=snapkv", *changed)[0].fingerprint == cells("method=snapkv")[0].fingerprint
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_bytes((copy / "config.json").read_bytes())
    (other / "model.safetensors").write_bytes(b"other weights")
    assert (
        cells("method=snapkv", f"model.path={other}")[0].fingerprint != cells("method=snapkv")[0].fingerprint
    )


def test_cells_of_one_prefill_share_a_job_and_others_do_not(cells):
    found = cells(
        "method=full,snapkv,sparsemm", "budget=40,50", "task=documents,charts", "model.dtype=float32,bfloat16"
    )
    jobs = group_into_jobs(found)
    assert len(jobs) == 4
    assert all(len({cell.group for cell in job}) == 1 and len(job) == 5 for job in jobs)


def test_labels_tell_cells_apart(cells):
    found = cells("method=snapkv", "scorer.pool_kernel=3,5", "task.limit=2,3")
    labels = {(cell.label["task"], cell.label["method"]) for cell in found}
    assert labels == {
        (f"documents limit={n}", f"snapkv scorer.pool_kernel={k}") for n in (2, 3) for k in (3, 5)
    }
    assert with_distinct_labels(cells("method=snapkv"))[0].label["method"] == "snapkv"


def test_labels_tell_cells_apart_that_only_their_weights_or_long_names_do(cells, model_folder, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes((model_folder / "config.json").read_bytes())
        (tmp_path / name / "model.safetensors").write_text(name)
    paths = f"model.path={tmp_path}/a,{tmp_path}/b"
    found = cells("method=snapkv", paths, "scorer.pool_kernel=3,5")
    assert len({(cell.label["model"], cell.label["method"]) for cell in found}) == len(found) == 4
    (first, _) = found = cells("method=snapkv")[0], cells("method=snapkv", "budget=65")[0]
    alike = [
        replace(one, label=first.label, identity={"method": {"note": "the same beginning, " + end}})
        for one, end in zip(found, "ab", strict=True)
    ]
    assert len({cell.label["method"] for cell in with_distinct_labels(alike)}) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["budget=31"], "budget=31: must be at least 32"),
        (["budget=0"], "budget=0: must be"),
        (["budget=-3"], "budget=-3: must be"),
        (["budget=120%"], "budget=120%: must be"),
        (["rho=1.5"], "rho=1.5: must be between 0 and 1"),
        (["rho=-0.1", "method=snapkv"], "rho=-0.1: must be between 0 and 1"),
        (["seed=-1"], "seed=-1: must be 0 or more"),
        (["rounding=up"], "rounding=up: must be"),
        (["model.dtype=float64"], "model.dtype=float64: must be one of"),
        (["engine.device=gpu"], "engine.device=gpu: must be one of auto, cpu, cuda"),
        (["engine.batch_prompts=0"], "engine.batch_prompts=0: must be at least 1"),
        (["scorer=none", "method=snapkv"], "scorer=none"),
        (["+scorer.kernel=3"], "scorer.kernel=3: there is no such setting. Did you mean pool_kernel?"),
        (["scorer.pool_kernel=wide"], "scorer.pool_kernel=wide: must be a whole number"),
        (["allocator=pyramid", "allocator.beta=0.5"], "allocator.beta=0.5: must be a whole number"),
        (["model.path=/nowhere"], "model.path=/nowhere: no such folder"),
        (["task.limit=0"], "task.limit=0: must be at least 1"),
    ],
)
def test_what_no_run_could_use_stops_before_any_work(cells, arguments, words):
    with pytest.raises(UnusableConfiguration, match="Nothing was started: ") as error:
        cells(*arguments)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ([[1.0, 2.0]], "the model has"),
        ([[1.0, 2.0, 3.0, -4.0]] * 2, "at least 0"),
        ([[0.0] * 4] * 2, "all are zero"),
        ([["a"] * 4] * 2, "head_scores"),
    ],
)
def test_head_scores_that_do_not_fit_stop_before_any_work(cells, tmp_path: Path, scores, words):
    (tmp_path / "heads.json").write_text(json.dumps({"format": 1, "scores": scores}))
    with pytest.raises(UnusableConfiguration, match=words):
        cells("method=sparsemm", f"model.head_scores={tmp_path}/heads.json")


def test_invalid_cells_are_counted_and_the_first_of_each_kind_is_named(cells):
    with pytest.raises(UnusableConfiguration) as error:
        cells("method=snapkv,random", "budget=8,64", "rho=0.1,7")
    lines = str(error.value).splitlines()
    assert lines[0] == "6 of 8 cells are invalid, nothing was started:"
    assert "(in 4 cells, first: method=snapkv budget=8 rho=7)" in lines[2]


def test_a_budget_at_the_window_or_above_the_prompt_is_allowed(cells):
    assert len(cells("method=snapkv", "budget=32,100000")) == 2


def test_content_ids_are_read_once(make_composer, model):
    maker = CellMaker()
    settings = [point.settings for point in make_composer().points([*model, "budget=40,50"])]
    assert len({maker.cell(one).identity["model"]["content"] for one in settings}) == 1
    assert sum(kind == "content" for kind, _ in maker._memo) == 1
