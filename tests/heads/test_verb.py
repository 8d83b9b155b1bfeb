"""`sparsemm heads` from the command line, on small random models of every family and on the tiny one."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from sparsemm.cli import register, run
from sparsemm.config import build
from sparsemm.models.small import save_small
from tests.heads.conftest import QUESTION, as_said, page

FAMILIES = {"qwen2_vl": "qwen2_vl_7b", "llava_next_vicuna": "llava_next_vicuna_7b"}
FAMILIES |= {"llava_next_mistral": "llava_next_mistral_7b", "qwen2_5_vl": "qwen2_5_vl_7b"}
TOKENS = 24


@pytest.fixture
def heads(tmp_path, monkeypatch, capsys):
    """The verb in this process: its exit code, and what it printed."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["sparsemm"])
        code = run(["heads", *arguments])
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    return call


@pytest.fixture
def small(tmp_path):
    """Overrides that choose a small random model of a family, and a folder of pages that say what it says."""

    def make(family: str) -> tuple[list[str], list[str]]:
        save_small(family, tmp_path / "model")
        model = [f"model={FAMILIES[family]}", f"model.path={tmp_path}/model", "model.dtype=float32"]
        model += ["model.attention=sdpa", "engine.device=cpu", "engine.threads=1"]
        register()
        with initialize_config_module("sparsemm.conf", version_base="1.3"):
            settings = OmegaConf.to_container(compose("run", model).model, resolve=True)
        loaded = build(settings).load(torch.device("cpu"))
        loaded.eos_ids = (-1,)
        labels = []
        for number in range(3):
            page(number).save(tmp_path / f"{number}.png")
            said = as_said(loaded, page(number), TOKENS, QUESTION)
            regions = [{"text": one.text, "box": list(one.box)} for one in said.regions]
            labels.append({"image": f"{number}.png", "regions": regions})
        (tmp_path / "labels.json").write_text(json.dumps(labels))
        data = ["data=folder", f"data.data={tmp_path}", f"data.max_new_tokens={TOKENS}"]
        return model, data

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gets_its_file_its_pictures_and_its_page(family, heads, small, tmp_path):
    model, data = small(family)
    code, shown = heads(*model, *data, "samples=3", "shards=2")
    assert code == 0, shown
    folder = tmp_path / "outputs" / "heads" / FAMILIES[family]
    content = json.loads(folder.with_suffix(".json").read_text())
    assert content["samples"] == 3 and content["counts"]["matched"] > 10 and len(content["images"]) == 3
    names = {"page.html", "heatmap.png", "cumulative.png", "sample-0.png", "sample-1.png"}
    assert names < {path.name for path in folder.iterdir()}
    for name in names:
        assert str(folder / name) in shown
    assert f"{content['counts']['matched']} of {content['counts']['tokens']} tokens matched" in shown
    assert "rank correlation" in shown and "best 5%" in shown
    assert re.search(r"reads: +100%\|.*\| \d/\d \[\d\d:\d\d<00:00, .*image", shown), "progress"


@pytest.mark.parametrize("family", ["qwen2_vl", "llava_next_mistral"])
def test_a_model_that_cannot_read_is_an_error_with_its_counts(family, heads, small, tmp_path):
    model, _ = small(family)
    code, shown = heads(*model, "data=synthetic", "samples=2", "data.max_new_tokens=8")
    assert code == 1
    assert "no head looked at what was said" in shown and "0 of 16 tokens matched a region" in shown
    assert "Traceback" not in shown
    assert not (tmp_path / "outputs" / "heads" / f"{FAMILIES[family]}.json").exists()


def test_running_it_again_reads_nothing_and_draws_the_same(heads, tmp_path):
    command = ["model=tiny", "samples=2", "data.max_new_tokens=40", "engine.threads=1"]
    assert heads(*command)[0] == 0
    before = {
        path: path.read_bytes() for path in (tmp_path / "outputs" / "heads").rglob("*") if path.is_file()
    }
    code, shown = heads(*command)
    assert code == 0 and "tiny reads" not in shown
    for path, content in before.items():
        assert path.read_bytes() == content, path


def test_two_searches_that_would_write_one_file_are_refused(heads):
    code, shown = heads("model=tiny", "samples=2,3")
    assert code == 2 and "tiny.json: two of these searches would write it" in shown


def test_figure_2_compares_what_it_found(heads, tmp_path):
    small = ["samples=2", "data.max_new_tokens=40", "engine.threads=1", "data.page.kind=document,words"]
    code, shown = heads("+experiment=figure2_heads", *small)
    assert code == 0, shown
    (folder,) = (tmp_path / "outputs" / "reports").glob("figure2_heads*")
    assert {path.name for path in folder.iterdir()} == {"figure.png", "figure-heatmaps.png", "figure.csv"}
    rows = [line.split(",") for line in (folder / "figure.csv").read_text().splitlines()]
    assert [row[:2] for row in rows[1:]] == [
        ["tiny-document", "halves of its samples"],
        ["tiny-words", "halves of its samples"],
        ["tiny-document", "tiny-words"],
    ]
    assert Path(folder / "figure.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("verb", ["run", "plan", "status", "report"])
def test_an_experiment_about_heads_is_for_this_verb(verb, heads, capsys):
    assert run([verb, "+experiment=figure2_heads"]) == 2
    assert "Try: sparsemm heads +experiment=figure2_heads" in capsys.readouterr().err


def test_a_copy_in_wandb_that_a_search_has_not_is_refused(heads, tmp_path):
    pytest.importorskip("wandb", reason='needs wandb: pip install "sparsemm[wandb]"')
    code, said = heads("model=tiny", "tracking=offline")
    assert code == 2 and "tracking=offline: a head search has no copy in W&B. Leave tracking out" in said
    assert not (tmp_path / "outputs").exists()
