"""What the pictures and the page show is what the scores and the attention are."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from sparsemm.heads.files import read_head_file
from sparsemm.heads.overlay import WORDS, choose_heads, show_sample
from sparsemm.heads.page import agreement_of_halves, to_html
from sparsemm.heads.pictures import DARK, LIGHT, curves, heat_map, heat_maps, overlay, png
from sparsemm.heads.report import compare_files, illustrate
from sparsemm.heads.search import region_tokens
from sparsemm.heads.watch import read
from tests.heads.conftest import as_said, page

SCORES = torch.tensor([[0.0, 1.0, 2.0], [3.0, 9.0, 0.5]])


def test_the_best_heads_and_two_of_the_worse_half_beside_them_are_shown():
    best, worst = choose_heads(SCORES)
    assert best == [(1, 1), (1, 0), (0, 2)]
    assert worst == [(1, 2), (0, 0)]  # the nearest layer first


@pytest.mark.parametrize("family", ["tiny", "qwen2_vl", "llava_next_vicuna"])
def test_the_attention_that_is_shown_is_that_of_full_matrices(models, given, family):
    """Of every kept head, at every step; a step sees prompt and answer, the picture the prompt."""
    loaded = models(family)
    prompt = loaded.prompt(page(1), "Read.")
    kept = [(1, 3), (0, 2), (1, 0)]
    reading = read(loaded, prompt, 6, kept)
    assert reading.attention.shape == (len(reading.tokens), 3, prompt.tokens)
    before = loaded.model.config.get_text_config()._attn_implementation
    loaded.model.set_attn_implementation({"text_config": "eager"})
    try:
        with torch.inference_mode():
            whole = loaded.model(**prompt.inputs, use_cache=False, output_attentions=True).attentions
    finally:
        loaded.model.set_attn_implementation({"text_config": before})
    for place, (layer, head) in enumerate(kept):
        assert torch.allclose(reading.attention[0, place], whole[layer][0, head, -1], atol=1e-5)
    assert bool((reading.attention.sum(-1) <= 1 + 1e-5).all())
    looks = [int(reading.looks[0, layer, head]) for layer, head in kept]
    assert reading.attention[0].argmax(-1).tolist() == looks


@pytest.mark.parametrize("family", ["qwen2_vl", "llava_next_vicuna"])
def test_the_heat_of_an_image_is_the_attention_on_its_tokens(models, given, family):
    loaded = models(family)
    sample = as_said(loaded, page(1), 24)
    source = given([sample], 24)
    shown = show_sample(loaded, sample, source, [(1, 3), (0, 2)])
    assert shown is not None and 1 <= len(shown.words) <= WORDS
    prompt = loaded.prompt(page(1), source.question)
    width, height = page(1).size
    everywhere = region_tokens(loaded, prompt, (0, 0, width, height))
    attention = read(loaded, prompt, 24, [(1, 3), (0, 2)]).attention
    most = attention[..., everywhere].sum(-1).max(0).values
    for word in shown.words:
        assert word.word in {region.text for region in sample.regions} or word.word.strip()
        assert bool((word.heat.sum((1, 2)) <= most + 1e-5).all())
        inside = word.inside
        assert bool((inside <= word.heat.sum((1, 2)) + 1e-4).all())
        assert word.heat.shape[0] == 2 and abs(word.heat.shape[2] / word.heat.shape[1] - width / height) < 0.1


def test_a_sample_shows_the_words_that_matched_and_none_without_one(models, given):
    loaded = models("llava_next_vicuna")
    sample = as_said(loaded, page(1), 24)
    one = replace(sample, regions=sample.regions[:1])
    shown = show_sample(loaded, one, given([one], 24), [(0, 0)])
    assert shown is not None and {word.word for word in shown.words} == {sample.regions[0].text}
    silent = replace(sample, regions=())
    assert show_sample(loaded, silent, given([silent], 24), [(0, 0)]) is None


def test_a_picture_is_the_same_bytes_every_time_and_differs_by_theme():
    for draw in (
        heat_map(SCORES),
        curves({"a": SCORES, "b": SCORES**2}),
        heat_maps({"a": SCORES, "b": SCORES}),
    ):
        light = png(draw, LIGHT, 60)
        assert light == png(draw, LIGHT, 60) != png(draw, DARK, 60)


def test_the_heat_map_is_darkest_at_the_best_head(tmp_path):
    (tmp_path / "map.png").write_bytes(png(heat_map(SCORES), LIGHT, 100))
    pixels = np.asarray(Image.open(tmp_path / "map.png").convert("L"), dtype=float)
    left = pixels[:, : int(pixels.shape[1] * 0.6)]  # without the colour bar
    row, column = np.unravel_index(left.argmin(), left.shape)
    dark = (left < left.min() + 3).nonzero()
    assert np.median(dark[0]) > pixels.shape[0] / 2  # the lower of two layers
    assert row > 0 and column > 0


class Page(HTMLParser):
    """What a page asks for, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.wanted += [value for key, value in attrs if key in ("src", "srcset", "href")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def content(tmp_path):
    """A head-score file with hostile names, in its place."""
    found = {
        "format": 1, "scores": SCORES.tolist(), "halves": [SCORES.tolist(), (SCORES**2).tolist()],
        "model": "0123", "name": "<b>x</b> & 'y'", "data": "a/<script>alert(1)</script>", "samples": 7,
        "asked": 9, "unmatched": 2, "question": "What's \"this\"?", "images": [],
        "counts": {"tokens": 90, "matched": 60, "hits": 55}, "git": {"commit": "abc", "dirty": True},
        "settings": {"dtype": "float32", "system": None},
    }  # fmt: skip
    (tmp_path / "heads.json").write_text(json.dumps(found))
    return tmp_path / "heads.json"


def test_the_page_needs_nothing_outside_it_and_escapes_what_it_shows(content):
    paths = illustrate(content)
    assert [path.name for path in paths] == ["page.html", "heatmap.png", "cumulative.png"]
    text = paths[0].read_text()
    page_ = Page()
    page_.feed(text)
    assert "script" not in page_.tags and "b" in page_.tags and "<b>x</b>" in page_.text
    assert len(page_.wanted) == 4 and all(one.startswith("data:image/png;base64,") for one in page_.wanted)
    assert "http" not in re.sub(r"arXiv:\S+", "", text)
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text


def test_the_page_says_how_few_heads_carry_the_score(content):
    page_ = Page()
    page_.feed(to_html(read_head_file(str(content)), SCORES, []))
    assert "58%of the score in the best 5% (1 heads)" in page_.text.replace("\n", "")
    assert "7 samples, a/" in page_.text and "67%of its tokens matched a region" in page_.text
    assert "60 of 90 tokens matched" in page_.text and "abc and uncommitted changes" in page_.text
    assert agreement_of_halves(read_head_file(str(content))) == pytest.approx(1)
    assert agreement_of_halves({"scores": [[1]]}) is None


def test_files_are_compared_in_words_in_curves_and_as_csv(content, tmp_path):
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"format": 1, "scores": SCORES.flip(0).tolist()}))
    said = compare_files([str(content), str(other)], tmp_path / "out" / "c.png")
    assert "rank correlation between halves of its samples 1.000" in said
    assert "of the best 1 heads both name 0%" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"c.png", "c-heatmaps.png", "c.csv"}
    assert compare_files([str(content), str(content)], None).count("\n") == 3


def test_words_that_mathtext_or_wrapping_would_trip_over_are_drawn(models, given):
    loaded = models("qwen2_vl")
    sample = as_said(loaded, page(1), 24)
    shown = show_sample(loaded, sample, given([sample], 24), [(0, 0), (1, 1)])
    assert shown is not None
    odd = ("$x_{", "a" * 40, "\u65e5\u672c", "%\\")
    words = tuple(replace(shown.words[0], before=text * 9, word=text, after=text) for text in odd)
    assert png(overlay(replace(shown, words=words), [(0, 0)], [(1, 1)]), LIGHT, 50)[:4] == b"\x89PNG"
