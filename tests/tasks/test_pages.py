"""Pages can be made again, tell where their words are, and never leak from one namespace into another."""

import dataclasses

import numpy as np
import pytest

from sparsemm.tasks.pages import (
    EVAL_ONLY_FONTS,
    SHARED_FONTS,
    PageSpec,
    fonts_of,
    make_page,
    owner,
    png_sha256,
)
from sparsemm.tasks.synthetic import DATA_VERSION

KINDS = ("document", "words", "chart")
NAMESPACES = ("train", "heads", "eval")


def spec(kind: str, **changes) -> PageSpec:
    return PageSpec(kind, **{"entries": (6, 12) if kind != "chart" else (4, 8), **changes})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("namespace", NAMESPACES)
def test_a_page_can_be_made_again(kind, namespace):
    one, two = (make_page(namespace, spec(kind), 17) for _ in range(2))
    assert png_sha256(one.image) == png_sha256(two.image)
    assert (one.words, one.pairs) == (two.words, two.pairs)


def test_pages_of_this_version_never_change():
    """Results, the tiny model and its head file depend on them: a change needs another DATA_VERSION."""
    page = make_page("eval", PageSpec("document"), 0)
    assert DATA_VERSION == "synthetic-1"
    assert page.pairs[:3] == (("ej", "zf7g"), ("jg", "kgnq"), ("eb", "mqpm"))


@pytest.mark.parametrize("kind", KINDS)
def test_namespaces_share_no_image_and_no_string(kind):
    images: dict[str, set[str]] = {}
    strings: dict[str, set[str]] = {}
    for namespace in NAMESPACES:
        pages = [make_page(namespace, spec(kind), index) for index in range(40)]
        images[namespace] = {png_sha256(page.image) for page in pages}
        strings[namespace] = {word.text.rstrip(":") for page in pages for word in page.words}
        assert len(images[namespace]) == len(pages)
        assert {owner(text) for text in strings[namespace]} == {namespace}
        assert {text for page in pages for pair in page.pairs for text in pair} <= strings[namespace]
    for found in (images, strings):
        assert not found["train"] & found["heads"]
        assert not found["train"] & found["eval"]
        assert not found["heads"] & found["eval"]


def test_one_font_belongs_to_eval_alone():
    assert set(fonts_of("eval")) - set(fonts_of("train")) == set(EVAL_ONLY_FONTS) and EVAL_ONLY_FONTS
    assert fonts_of("train") == fonts_of("heads") == SHARED_FONTS
    held_out = spec("document", fonts=EVAL_ONLY_FONTS)
    assert make_page("eval", held_out, 0).words
    for namespace in ("train", "heads"):
        with pytest.raises(ValueError, match=rf"kept for the eval namespace; {namespace} pages may not"):
            make_page(namespace, held_out, 0)


@pytest.mark.parametrize("font", SHARED_FONTS + EVAL_ONLY_FONTS)
@pytest.mark.parametrize("kind", ["document", "words"])
def test_boxes_contain_all_ink_and_are_tight(kind, font):
    for index in range(6):
        page = make_page("eval", spec(kind, fonts=(font,)), index)
        pixels = np.asarray(page.image).astype(int)
        ink = pixels != pixels.max()
        inside = np.zeros_like(ink)
        for word in page.words:
            left, top, right, bottom = word.box
            assert 0 <= left < right <= page.image.width and 0 <= top < bottom <= page.image.height
            inside[top:bottom, left:right] = True
            rows, columns = (np.flatnonzero(ink[top:bottom, left:right].any(axis)) for axis in (1, 0))
            slack = (rows[0], bottom - top - 1 - rows[-1], columns[0], right - left - 1 - columns[-1])
            assert max(slack) <= 1, (word, slack)  # the faintest edge may round to paper
        assert not (ink & ~inside).any()


def test_words_do_not_overlap():
    for kind in KINDS:
        for index in range(20):
            page = make_page("heads", spec(kind), index)
            covered = np.zeros((page.image.height, page.image.width), int)
            for word in page.words:
                left, top, right, bottom = word.box
                covered[top:bottom, left:right] += 1
            assert covered.max() == 1


def test_chart_labels_stand_where_their_boxes_say():
    """Ink reaches all four edges of a label's box."""
    for index in range(10):
        page = make_page("eval", spec("chart", contrast=(200, 200)), index)
        pixels = np.asarray(page.image).astype(int)
        for word in page.words:
            left, top, right, bottom = word.box
            box = pixels[top:bottom, left:right]
            assert (box == pixels.max()).any()
            for edge in (box[0], box[-1], box[:, 0], box[:, -1]):
                assert (edge < pixels.max()).any(), word


def test_bars_are_as_high_as_their_values():
    page = make_page("eval", spec("chart", entries=(5, 5)), 3)
    tops = {word.text: word.box[3] for word in page.words if word.text.isdigit()}
    ranked = sorted(tops, key=int, reverse=True)
    assert len(ranked) >= 3
    assert [tops[text] for text in ranked] == sorted(tops.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "change",
    [
        {"width": 320}, {"height": 320}, {"entries": (2, 2)}, {"font_size": (20, 22)},
        {"contrast": (40, 60)}, {"fonts": ("aileron",)},
    ],
)  # fmt: skip
def test_every_knob_changes_the_page(kind, change):
    plain = spec(kind, fonts=("DejaVuSans",))
    changed = dataclasses.replace(plain, **change)
    different = [
        png_sha256(make_page("eval", plain, index).image)
        != png_sha256(make_page("eval", changed, index).image)
        for index in range(3)
    ]
    assert all(different)


@pytest.mark.parametrize("kind", KINDS)
def test_knobs_do_what_they_say(kind):
    for index in range(8):
        few = make_page("eval", spec(kind, entries=(3, 3)), index)
        assert len(few.words) == (3 if kind == "words" else 6)
        faint = np.asarray(make_page("eval", spec(kind, contrast=(50, 60)), index).image).astype(int)
        clear = np.asarray(make_page("eval", spec(kind, contrast=(200, 210)), index).image).astype(int)
        box = few.words[0].box
        assert few.image.size == (256, 256) and box[2] <= 256
        if kind != "chart":  # a chart's bars have their own grey
            assert 40 <= faint.max() - faint.min() <= 60 < 150 <= clear.max() - clear.min()


def test_document_values_follow_their_keys_in_reading_order():
    page = make_page("eval", spec("document"), 5)
    texts = [word.text for word in page.words]
    assert texts == [part for key, value in page.pairs for part in (f"{key}:", value)]
    assert page.text == " ".join(texts)
    assert len({key for key, _ in page.pairs}) == len(page.pairs)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"width": 0}, r"width=0: must be a positive multiple of 16 pixels. Try 16"),
        ({"width": -16}, r"width=-16: must be a positive multiple of 16"),
        ({"height": 250}, r"height=250: must be a positive multiple of 16 pixels. Try 240"),
        ({"entries": (0, 3)}, r"entries=\[0, 3\]: expected \[least, most\] with 0 < least <= most"),
        ({"entries": (5, 3)}, r"entries=\[5, 3\]"),
        ({"font_size": (0, 3)}, r"font_size=\[0, 3\]"),
        ({"contrast": (10, 300)}, r"contrast=\[10, 300\]: grey levels end at 255"),
        ({"fonts": ("Comic",)}, r"fonts=\['Comic'\]: unknown. Choose from"),
    ],
)
def test_pages_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        spec("document", **change)


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_without_room_is_refused(kind):
    with pytest.raises(ValueError, match=r"width=16 height=16: no entry fits .* Use a larger page"):
        make_page("eval", spec(kind, width=16, height=16, font_size=(30, 30)), 0)
