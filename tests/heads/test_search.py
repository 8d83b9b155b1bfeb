"""The head search credits heads that look at the word being read, on the right image tokens."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from sparsemm.heads.files import load_head_scores
from sparsemm.heads.search import main, region, score_page, words_being_read
from sparsemm.models.qwen2_vl import Qwen2VL
from sparsemm.tasks.pages import Page, PageSpec, Word, make_page, png_sha256
from sparsemm.tasks.synthetic import READ_ALL


@given(
    st.integers(1, 6), st.integers(1, 6), st.sampled_from([8, 16, 28]), st.data()
)  # fmt: skip
def test_region_is_the_cells_that_a_painted_box_touches(columns, rows, side, data):
    width, height = columns * side, rows * side
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    image = Image.new("L", (width, height))
    ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), fill=255)
    cells = np.asarray(image).reshape(rows, side, columns, side).max((1, 3)).flatten()
    assert region((left, top, right, bottom), columns, side) == np.flatnonzero(cells).tolist()


def page_of(*texts: str) -> Page:
    return Page(Image.new("L", (64, 32), 255), tuple(Word(text, (0, 0, 9, 9)) for text in texts), ())


@pytest.mark.parametrize(
    "text, expected",
    [
        ("ab: xyz", [0, 0, 0, None, 1, 1, 1]),
        ("xyz ab:", [1, 1, 1, None, 0, 0, 0]),
        ("two two", [None] * 7),  # stands on the page twice
        ("no ab:", [None, None, None, 0, 0, 0]),  # not on the page
        ("ab:x", [None] * 4),  # no word of the page
        ("ab: ", [0, 0, 0, None]),
        ("  xyz", [None, None, 1, 1, 1]),
        ("", []),
    ],
)
def test_characters_belong_to_the_single_word_that_they_spell(text, expected):
    assert words_being_read(text, page_of("ab:", "xyz", "two", "two")) == expected


@pytest.fixture(scope="module")
def eager(random_model_folder):
    """The random model as the search runs it."""
    adapter = Qwen2VL(
        name="random", path=str(random_model_folder), dtype="float32", attention="sdpa", max_pixels=2**20
    )
    loaded = adapter.load(torch.device("cpu"))
    loaded.model.set_attn_implementation({"text_config": "eager", "vision_config": "sdpa"})
    return loaded


def test_heads_that_look_at_the_word_score_one_over_its_tokens(eager):
    """The page is told to show what the random model says, so that its words match."""
    image = make_page("heads", PageSpec("document", 96, 64, (3, 3), (10, 12)), 0).image
    prompt = eager.prompt(image, READ_ALL)
    says = eager.model.generate(
        **{**prompt.inputs, "attention_mask": torch.ones_like(prompt.inputs["input_ids"])},
        max_new_tokens=12, do_sample=False, output_attentions=True, return_dict_in_generate=True,
    )  # fmt: skip
    ids = [token for token in says.sequences[0, prompt.tokens :].tolist() if token not in eager.eos_ids]
    tokens = eager.tokenizer.convert_ids_to_tokens(ids)
    text = "".join(token if token and len(token) == 1 else "\ufffd" for token in tokens)
    first = int((prompt.inputs["input_ids"][0] == eager.image_id).nonzero()[0, 0])
    looks = torch.stack(
        [torch.stack([layer[0, :, -1].argmax(-1) for layer in step]) for step in says.attentions[: len(ids)]]
    )
    for box, cells in (((0, 0, 96, 64), range(24)), ((0, 0, 20, 17), [0, 1, 6, 7])):
        page = Page(image, tuple(Word(word, box) for word in text.split(" ")), ())
        matching = torch.tensor([word is not None for word in words_being_read(text, page)])
        scores, counts = score_page(eager, page, 12)
        inside = torch.isin(looks, torch.tensor([first + cell for cell in cells]))[matching]
        assert torch.allclose(scores, inside.sum(0) / len(cells)) and scores.shape == (2, 8)
        assert counts == {"characters": len(ids), "matched": len(inside), "hits": int(inside.sum())}
        assert len(inside) > 3
    twice = Page(image, page.words * 2, ())
    assert score_page(eager, twice, 12)[1]["matched"] == 0


def test_a_search_that_finds_nothing_writes_nothing(random_model_folder, tmp_path):
    out = tmp_path / "heads.json"
    small = ["pages=1", "width=96", "height=64", "entries=3", "max_new_tokens=6"]
    with pytest.raises(SystemExit, match="nothing was written"):
        main([f"model.path={random_model_folder}", f"out={out}", *small])
    assert not out.exists()


def test_the_search_writes_a_file_that_the_methods_read(tmp_path, capsys):
    out = tmp_path / "new" / "heads.json"
    main([f"out={out}", "pages=2", "width=176", "height=128", "entries=4", "max_new_tokens=40"])
    content = json.loads(out.read_text())
    assert set(content) == {"format", "scores", "model", "data", "samples", "counts", "images"}
    scores = load_head_scores(str(out))
    assert scores.shape == (6, 8) and bool((scores >= 0).all()) and bool((scores > 0).any())
    tiny = "pkg://sparsemm.data/tiny"
    adapter = Qwen2VL(name="tiny", path=tiny, dtype="float32", attention="sdpa", max_pixels=2**20)
    assert content["model"] == adapter.content_id()
    spec = PageSpec("document", 176, 128, (4, 4), (18, 20))
    assert content["images"] == [png_sha256(make_page("heads", spec, index).image)[:16] for index in (0, 1)]
    assert content["samples"] == 2
    assert "2 pages" in capsys.readouterr().out
