"""Figure 6, the targets and their judgements: every number is a run's, or says that there is none."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from sparsemm.experiments.figure6_efficiency import CLAIM, FASTER, LESS, MODEL, PROMPT, draw, judge

from sparsemm.cli import register
from sparsemm.results.efficiency import (
    DECODES,
    MEASURES,
    OURS,
    Place,
    Way,
    in_store,
    paper_16k,
    paper_budget,
    paper_curve,
    paper_shapes,
    places,
    read,
)
from sparsemm.results.efficiency_tables import COLUMNS
from sparsemm.results.efficiency_targets import TARGETS, to_markdown

Maker = Callable[..., dict[str, Any]]
FULL, SPARSE = Way(OURS, "full", None, "graph"), Way(OURS, "sparsemm", 256, "graph")


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "figure6.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_the_figure_holds_the_runs_numbers_beside_the_papers(bench: Maker, tmp_path: Path) -> None:
    made = bench(MODEL, (2048, PROMPT), gpu=True)
    paths = draw([made], tmp_path)
    assert [path.name for path in paths] == ["figure6.svg", "figure6.png", "figure6.md", "figure6.csv"]
    assert all(path.stat().st_size for path in paths)
    line = next(
        one
        for one in rows(tmp_path)
        if (one["part"], one["measure"], one["model"]) == ("figure 6", "decode", MODEL)
        and (one["prompt_tokens"], one["method"], one["decode"]) == (str(PROMPT), "sparsemm", "graph")
    )
    found = places([made])
    full, ours = (found[Place("decode", MODEL, way, PROMPT)].value for way in (FULL, SPARSE))
    assert float(line["ours"]) == pytest.approx(ours, abs=1e-4)
    assert float(line["ours_full_to_this"]) == pytest.approx(full / ours, abs=1e-4)
    assert float(line["paper"]) == paper_curve("decode", MODEL, "sparsemm")[PROMPT] == 37.9
    assert float(line["paper_full_to_this"]) == pytest.approx(70.9 / 37.9, abs=1e-4)
    assert line["device"] == "NVIDIA H200"
    svg, text = paths[0].read_text(), paths[2].read_text()
    assert "SparseMM, budget 256, compiled" in svg and "SparseMM, the paper on its hardware" in svg
    assert "driver 570" in text and "sm 1980 MHz" in text


def test_what_was_not_measured_says_so_and_has_no_number(tmp_path: Path) -> None:
    draw([], tmp_path)
    lines = rows(tmp_path)
    assert {line["model"] for line in lines} == set(paper_shapes())
    assert {line["ours"] for line in lines} == {"not measured"}
    assert {line["ours_full_to_this"] for line in lines} == {""}
    five = [line for line in lines if line["part"] == "table at 16K"]
    assert [line["paper"] for line in five] == ["52.90", "37.10", "35.30", "34.90", "37.30"]
    assert "ours: not measured" in (tmp_path / "figure6.svg").read_text()
    assert set(lines[0]) == set(COLUMNS)


def test_a_small_shape_on_a_cpu_has_no_points_of_the_paper_and_says_what_it_is(
    bench: Maker, tmp_path: Path
) -> None:
    made = bench("tiny", (64, 128), decodes=("eager",), budget=40)
    made["results"] = [one for one in made["results"] if one["measure"] == "decode"]  # no memory
    draw([made], tmp_path)
    assert {line["model"] for line in rows(tmp_path)} == {"tiny"}
    assert "time per token, relative" in (tmp_path / "figure6.svg").read_text()
    assert not any(line["paper"] for line in rows(tmp_path))
    for name in ("figure6.svg", "figure6.md"):
        text = (tmp_path / name).read_text()
        assert "the tiny shape on" in text and "(a CPU)" in text and "the paper on its hardware" not in text
    assert (tmp_path / "figure6.md").read_text().count("**not tested**") == 2


def test_the_papers_sentences_are_judged_only_by_its_model_on_a_gpu(bench: Maker) -> None:
    def verdicts(*made: dict[str, Any]) -> list[str]:
        return [one.verdict for one in judge(made)]

    good = bench(MODEL, (PROMPT,), gpu=True, full_ms=8.0, ms=4.0, full_gb=30.0, gb=15.0)
    assert verdicts(good) == ["supported"] * 2
    slow = bench(MODEL, (PROMPT,), gpu=True, full_ms=7.4, ms=4.0, full_gb=30.0, gb=16.0)
    assert verdicts(slow) == ["not supported"] * 2
    for other in (
        bench(MODEL, (PROMPT,), full_ms=8.0, ms=4.0, full_gb=30.0, gb=15.0),  # a CPU
        bench("qwen2_vl_7b", (PROMPT,), gpu=True),
        bench(MODEL, (2048,), gpu=True),
        bench(MODEL, (PROMPT,), gpu=True, budget=512),
    ):
        assert verdicts(other) == ["not tested"] * 2
    one, other = bench(MODEL, (PROMPT,), gpu=True), bench(MODEL, (PROMPT,), gpu=True, device="another")
    one["results"] = [each for each in one["results"] if each["method"] == "full"]
    other["results"] = [each for each in other["results"] if each["method"] != "full"]
    assert verdicts(one, other) == ["not tested"] * 2, "the two were measured apart"


def test_the_papers_own_numbers_support_its_sentences() -> None:
    decode, memory = (
        [paper_curve(measure, MODEL, method)[PROMPT] for method in CLAIM.methods]
        for measure in ("decode", "memory")
    )
    assert decode[0] / decode[1] >= FASTER
    assert 1 - memory[1] / memory[0] >= LESS


def test_the_experiment_measures_the_papers_places() -> None:
    register()
    with initialize_config_module("sparsemm.conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        asked = loader.load_configuration("bench", ["+experiment=figure6_efficiency"], RunMode.RUN)
    model, prompt, by_method = paper_16k()
    assert list(asked["shape"]) == list(paper_shapes()) and model in asked["shape"]
    assert list(asked.prompts) == list(paper_curve("memory", model, "full")) and prompt in asked.prompts
    assert set(asked.methods) == set(by_method) and list(asked.budgets) == [paper_budget()]
    assert list(asked.measure) == list(MEASURES) and list(asked.decode) == list(DECODES)
    assert (asked.tokens, asked.device, asked.dtype) == (100, "cuda", "bfloat16")


def test_of_the_same_place_the_newest_counts(bench: Maker) -> None:
    old = bench(MODEL, (PROMPT,), gpu=True, ms=9.0)
    new = bench(MODEL, (PROMPT,), gpu=True, ms=4.0, when="2027-01-01T00:00:00+00:00")
    assert places([old, new])[Place("decode", MODEL, SPARSE, PROMPT)].value == 4.0
    slower = bench(MODEL, (PROMPT,), gpu=True, ms=5.0, when="2028-01-01T00:00:00+00:00")
    assert places([slower, new])[Place("decode", MODEL, SPARSE, PROMPT)].value == 5.0


def test_of_several_backends_the_fastest_counts_and_is_named(bench: Maker, tmp_path: Path) -> None:
    made = [
        bench(MODEL, (PROMPT,), gpu=True, ms=ms, backend=backend, when=f"2027-01-0{day}T00:00:00+00:00")
        for day, ms, backend in ((1, 6.0, "triton"), (2, 4.0, "cuda"), (3, 9.0, "torch"))
    ]
    found = places(made)[Place("decode", MODEL, SPARSE, PROMPT)]
    assert (found.value, found.backend) == (4.0, "cuda")
    draw(made, tmp_path)
    assert {one["backend"] for one in rows(tmp_path) if one["ours"] == "4.0000"} == {"cuda"}


def test_files_are_read_and_others_refused(bench: Maker, tmp_path: Path) -> None:
    for name, content in (("a", bench("tiny", (64,))), ("b", bench(MODEL, (64,))), ("c", {"results": []})):
        (tmp_path / "bench" / name).mkdir(parents=True)
        (tmp_path / "bench" / name / "bench.json").write_text(json.dumps(content))
    assert len(in_store(tmp_path, ["tiny"])) == 1 and in_store(tmp_path, ["another"]) == []
    assert len(read([tmp_path / "bench" / name / "bench.json" for name in "ab"])) == 2
    with pytest.raises(ValueError, match=r"bench.json: format=None: must be 1.*Measure again"):
        read([tmp_path / "bench" / "c" / "bench.json"])


def targets_of(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_target_is_in_the_table_and_without_a_run_says_not_measured() -> None:
    table = targets_of(to_markdown([]))
    assert len(table) == sum(len(target.shapes) for target in TARGETS)
    assert {tuple(line[3:]) for line in table} == {("not measured", "-", "-")}


def test_targets_are_met_or_not_by_the_figures_of_a_run(bench: Maker) -> None:
    made = bench(MODEL, (PROMPT,), gpu=True, full_ms=8.0, ms=4.0)
    for one in made["results"]:
        share = {"graph": 0.6, "compiled": 0.69}.get(one.get("decode"))
        one |= {"weight_limit_share": share, "speedup": 2.0, "less_than_full": 0.5}
    kernel = {"measure": "kernel", "shape": MODEL, "rows": 1, "budget": 256, "copy_share": None}
    made["results"] += [
        kernel | {"way": "triton", "us": 14.0, "speedup_against_published": 2.0},
        kernel | {"way": "cuda", "us": 11.0, "speedup_against_published": 3.5},
        kernel | {"way": "published", "us": 1.0, "speedup_against_published": None},
        kernel | {"way": "torch", "us": 2.0, "speedup_against_published": 9.0},
        kernel | {"way": "flash_attn", "us": 2.0, "speedup_against_published": 9.0},
    ]
    prefill = {
        "measure": "prefill",
        "shape": MODEL,
        "method": "sparsemm",
        "prompt_tokens": 8192,
        "image_tokens": 8000,
    }
    made["results"] += [
        prefill | {"backend": backend, "budget": budget, "share": share}
        for backend, budget, share in (("triton", 256, 0.04), ("triton", 64, 0.01), ("torch", 256, 0.02))
    ]
    shown = {line[0]: line[3:] for line in targets_of(to_markdown([made])) if line[3] != "not measured"}
    assert {what.partition(",")[0]: (cells[0], cells[1]) for what, cells in shown.items()} == {
        "decode attention": ("11.0", "yes"),
        "attention and append against the published way": ("3.50x", "yes"),
        "decode step": ("69.0 % (250 tokens/s, triton)", "no"),
        "ranking": ("4.0 %", "no"),
        "the same against the full cache in the same loop": ("2.00x", "yes"),
        "peak memory at 32K": ("50.0 %", "yes"),
    }
    assert "1. NVIDIA H200, CUDA 13.0" in to_markdown([made])


@pytest.mark.parametrize(
    "change",
    [
        {"backend": "torch"},
        {"image_tokens": 0},
        {"new_tokens": 1},
        {"budget": 64},
        {"rows": 2},
        {"dtype": "float32"},
    ],
)
def test_another_setting_meets_no_target(bench: Maker, change: dict[str, Any]) -> None:
    made = bench(MODEL, (PROMPT,), gpu=True, full_ms=8.0, ms=4.0)
    made["settings"] |= {key: change[key] for key in change if key == "dtype"}
    for one in made["results"]:
        one |= {"weight_limit_share": 0.9, "speedup": 2.0, "less_than_full": 0.5, **change}
        if one["measure"] == "memory" and "backend" in change:
            one["less_than_full"] = None  # memory has no backend
    assert {line[3] for line in targets_of(to_markdown([made]))} == {"not measured"}


def test_another_gpu_is_told_but_not_judged(bench: Maker) -> None:
    made = bench(MODEL, (PROMPT,), gpu=True, device="Laptop GPU")
    for one in made["results"]:
        one |= {"weight_limit_share": 0.9, "speedup": 2.0, "less_than_full": 0.5}
    met = [line[4] for line in targets_of(to_markdown([made])) if line[3] != "not measured"]
    assert set(met) == {"not on an H200"}


def test_a_figure_of_a_cpu_meets_no_target_of_a_gpu(bench: Maker) -> None:
    made = bench(MODEL, (PROMPT,))
    for one in made["results"]:
        one |= {"weight_limit_share": 0.9, "speedup": 2.0, "less_than_full": 0.5}
    assert {line[3] for line in targets_of(to_markdown([made]))} == {"not measured"}
