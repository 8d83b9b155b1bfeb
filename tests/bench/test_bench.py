"""The verb: settings, files, the printed tables, and what is refused."""

import csv
import json
import re
from functools import partial
from pathlib import Path

import pytest
import sparsemm.conf
import torch
import yaml

from sparsemm.api import make_method
from sparsemm.bench import main
from sparsemm.bench.files import BenchFiles, all_runs
from sparsemm.bench.machine import describe
from sparsemm.bench.results import COLUMNS, attempt, result
from sparsemm.bench.settings import LISTS, SMOKE, Settings, as_lists
from sparsemm.cli import run
from sparsemm.help import VERBS

KEYS = {  # of bench.json, as others read it
    "decode": {
        "way",
        "method",
        "budget",
        "decode",
        "backend",
        "rows",
        "ms_per_token",
        "speedup",
        "limit_share",
    },
    "memory": {"way", "method", "budget", "peak_bytes", "weights_bytes", "cache_bytes", "less_than_full"},
    "prefill": {"method", "budget", "prefill_ms", "with_method_ms", "select_ms", "share"},
    "grid": {"cells", "rows", "ratio", "grid_ms", "full_ms"},
    "kernel": {"way", "budget", "us", "gb_per_s", "copy_share", "speedup_against_published"},
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The bandwidth of the machine is measured elsewhere."""
    monkeypatch.setattr(main.kernel, "copy_gb_per_s", lambda device: 10.0)


def read(folder: Path) -> dict:
    return json.loads((folder / "bench.json").read_text())


def test_a_smoke_run_measures_everything(tmp_path, capsys):
    """Twice, so that the first is kept."""
    once = ["bench", "+smoke=true", "methods=full,snapkv", "backend=torch", f"out={tmp_path}"]
    assert run(once) == 0
    folder = tmp_path / "smoke"
    found = read(folder)
    assert found["format"] == 1
    assert {one["measure"] for one in found["results"]} == set(COLUMNS)
    for one in found["results"]:
        assert set(one) >= {"measure", "shape"} | KEYS[one["measure"]]
        assert one.get("error") is None and one["shape"] == "tiny"
        if one["measure"] != "kernel":
            assert one["prompt_tokens"] == SMOKE["prompts"][0] and one["image_tokens"] > 100
    assert found["settings"]["prompts"] == list(SMOKE["prompts"]) and found["settings"]["smoke"] is True
    machine = found["machine"]
    assert machine["gpu"] is False and machine["torch"] == torch.__version__
    assert machine["copy_gb_per_s"] == 10.0 and machine["clocks_mhz"] is None
    with (folder / "bench.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["measure"] for line in lines] == [one["measure"] for one in found["results"]]
    said = capsys.readouterr()
    shown = said.out
    assert re.search(r"bench: +100%\|.*\| 5/5 \[\d\d:\d\d<00:00, .*measurement", said.err)
    for measure in COLUMNS:
        assert f"\n{measure}, tiny, " in shown
    assert "snapkv budget=48" in shown and str(folder / "bench.json") in shown

    few = ["measure=grid", "methods=full", "prompts=64", "budgets=40", "tokens=1", "rounds=1"]
    assert run(["bench", *few, f"out={folder}"]) == 0
    assert read(folder / "earlier-1") == found
    assert [one["measure"] for one in read(folder)["results"]] == ["grid"]
    assert len(all_runs(folder)) == 2 and all_runs(folder)[0] == found


def test_files_are_whole_after_every_result_and_nothing_is_overwritten(tmp_path):
    for number in range(3):
        files = BenchFiles(tmp_path, {"tokens": number}, {"when": str(number)})
        for rows in (1, 2):
            files.add(result("decode", "tiny", rows=rows, rounds_ms=[1.5, 2.5]))
            assert len(read(tmp_path)["results"]) == rows
    assert read(tmp_path)["settings"] == {"tokens": 2}
    assert [read(tmp_path / f"earlier-{number}")["settings"]["tokens"] for number in (1, 2)] == [0, 1]
    assert [one["settings"]["tokens"] for one in all_runs(tmp_path)] == [0, 1, 2]
    assert "1.5 2.5" in (tmp_path / "bench.csv").read_text()


def test_what_fails_is_a_reason_but_a_broken_gpu_and_a_bad_setting_stop_everything():
    def fails(error):
        raise error

    assert attempt(lambda: 3) == (3, None)
    found = attempt(lambda: fails(torch.OutOfMemoryError("CUDA out of memory.\n Tried")))
    assert found == (None, "out of memory: CUDA out of memory. Tried")
    assert attempt(lambda: fails(KeyError("lost"))) == (None, "KeyError: 'lost'")
    for stops in (
        RuntimeError("CUDA error: an illegal memory access"),
        ValueError("prompts=3: must be more."),
    ):
        with pytest.raises(type(stops)):
            attempt(partial(fails, stops))


def test_a_step_that_cannot_be_captured_is_a_reason(monkeypatch):
    """CUDA calls it an error, but the GPU goes on."""

    def fails():
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(True))
    assert attempt(fails) == (
        None,
        "RuntimeError: CUDA error: operation not permitted when stream is capturing",
    )
    assert waited


def test_a_model_that_does_not_fit_leaves_the_other_shapes(tmp_path, monkeypatch):
    real = main.make_model

    def make(shape, *rest):
        if shape != "tiny":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(shape, *rest)

    monkeypatch.setattr(main, "make_model", make)
    asked = [
        "shape=qwen2_vl_7b,tiny",
        "measure=grid,memory",
        "prompts=64",
        "budgets=40",
        "tokens=1",
        "rounds=1",
    ]
    assert run(["bench", *asked, f"out={tmp_path}"]) == 1
    big = [one for one in read(tmp_path)["results"] if one["shape"] == "qwen2_vl_7b"]
    small = [one for one in read(tmp_path)["results"] if one["shape"] == "tiny"]
    assert {one["measure"] for one in big} == {one["measure"] for one in small} == {"grid", "memory"}
    assert all("out of memory" in one["error"] for one in big)
    assert all(one["peak_bytes"] for one in small if one["measure"] == "memory")


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("budget=64", "budget: there is no such setting. Did you mean budgets? `sparsemm bench --cfg job`"),
        ("prompts=many", "prompts=many: must be a whole number. Set prompts."),
        ("rounds=0", "rounds=0: must be at least 1. Set rounds."),
        ("threads=0", "threads=0: must be at least 1, or null. Set threads."),
        ("rows=33", "rows=33: must be at most 32. Set rows."),
        ("methods=snpkv", "methods=snpkv: must be one of adakv,"),
        ("methods=snpkv", "Did you mean snapkv?"),
        ("budgets=8", "methods=sparsemm: budgets=8: must be at least 32: method.window=32"),
        ("shape=huge", "shape=huge: must be one of tiny, qwen2_0_5b,"),
        ("measure=speed", "measure=speed: must be one of decode, prefill, memory, grid, kernel."),
        ("decode=both", "decode=both: must be one of eager, graph, compiled."),
        ("backend=numpy", "backend=numpy: must be one of auto, torch,"),
        ("weights=/nowhere", "weights=/nowhere: no such folder."),
        ("+experiment=quickstart", "is about cells, not speed and memory. Try: sparsemm run +experiment="),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_done(argument, words, capsys, tmp_path):
    assert run(["bench", argument, f"out={tmp_path / 'out'}"]) == 2
    told = capsys.readouterr()
    assert words in told.err and told.out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("argument", ["device=cuda", "decode=graph", "backend=flash_attn"])
def test_without_a_gpu_what_needs_one_is_refused(argument, capsys, tmp_path):
    assert run(["bench", argument, f"out={tmp_path / 'out'}"]) == 2
    assert f"{argument}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": ("qwen2_0_5b",), "images": True}, "images=true: shape=qwen2_0_5b reads text alone"),
        (
            {"shape": ("tiny", "qwen2_vl_7b"), "weights": "a/b"},
            "weights=a/b: belong to one model with images",
        ),
        ({"prompts": ()}, r"prompts=\[\]: must be at least one"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, words):
    rest = {"methods": ("full",), "threads": None, "images": None, "smoke": False, "out": "-"}
    with pytest.raises(ValueError, match=words):
        Settings(**{**SMOKE, **rest, **changes})


def test_a_comma_makes_a_list_of_keys_that_have_several():
    given = ["prompts=1,2", "rows=1", "decode=[eager]", "out=a,b", "+smoke=true", "+experiment=x"]
    assert as_lists(given) == [
        *("prompts=[1,2]", "rows=[1]", "decode=[eager]", "out=a,b", "smoke=true", "+experiment=x"),
    ]
    assert set(LISTS) == {"measure", "shape", "prompts", "methods", "budgets", "rows", "decode"}


def test_help_shows_every_setting_with_its_default(capsys):
    assert run(["bench", "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(VERBS["bench"])
    assert all(f"\n{key}:" in shown for key in Settings.__dataclass_fields__)
    assert run(["bench", "--cfg", "job", "prompts=512"]) == 0
    assert "prompts:\n- 512\n" in capsys.readouterr().out


def test_the_machine_says_what_it_is():
    found = describe(torch.device("cpu"), None)
    assert found["device"] and found["threads"] == torch.get_num_threads()
    assert found["sparsemm"].startswith("0.") and found["copy_gb_per_s"] is None


def test_examples_work_when_pasted(monkeypatch):
    """All but Hydra's part of it, which the other tests go through."""
    made = {}

    def make(name, budget, heads):  # composed once
        if name not in made:
            made[name] = make_method(name, budget, heads)
        return made[name]

    monkeypatch.setattr(main, "make_method", make)
    known = yaml.safe_load((Path(sparsemm.conf.__path__[0]) / "bench.yaml").read_text())
    defaults = {key: known[key] for key in Settings.__dataclass_fields__}
    lines = [line.strip() for line in VERBS["bench"].splitlines()]
    examples = [re.split("  +", line)[0].split()[2:] for line in lines if line.startswith("sparsemm bench")]
    assert len(examples) > 6
    for words in examples[1:]:
        pairs = [
            word.split("=", 1) for word in as_lists(words) if not re.search("experiment=|tracking=", word)
        ]
        given = {key: yaml.safe_load(value) for key, value in pairs}
        assert given.keys() <= defaults.keys(), words
        main._check(Settings.of({**defaults, **given}))
