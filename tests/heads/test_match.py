"""Generated tokens belong to the region whose word they spell, whatever pieces the tokenizer makes."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsemm.heads.match import match, pieces
from sparsemm.models.tiny import build_tokenizer


def by_token(tokens: list[str], regions: list[str], whole: bool = False) -> list:
    """Region of every token (None: unknown), or why it has none."""
    spans, at = [], 0
    for token in tokens:
        spans.append((at, at + len(token)))
        at += len(token)
    found = match("".join(tokens), spans, regions, whole)
    return [
        one.region if one.found == "matched" else None if one.found == "unknown" else one.found
        for one in found
    ]


@pytest.mark.parametrize(
    "tokens, regions, expected",
    [
        (["ab:", " ", "xyz"], ["ab:", "xyz"], [0, None, 1]),
        (["x", "yz", " ab", ":"], ["ab:", "xyz"], [1, 1, 0, 0]),  # sub-words; a word start with its space
        ([" Hel", "lo", " wor", "ld"], ["hello", "WORLD"], [0, 0, 1, 1]),  # case
        (["Hel", "p"], ["hello"], [None, None]),  # the beginning of a word is not the word
        (["two"], ["two", "two"], ["ambiguous"]),
        (["two"], ["two one", "three two"], ["ambiguous"]),
        (["one", " two"], ["two one", "three two"], [0, "ambiguous"]),
        (["ab", " ab", " ab"], ["ab"], [0, "repeated", "repeated"]),
        (["ab", " ab", " ab"], ["ab, ab"], [0, 0, "repeated"]),
        (['"To', "tal", '",'], ["Total"], [0, 0, None]),  # punctuation that the region does not have
        (["Total", ","], ["total,"], [0, 0]),  # and that it has
        (["- ", "12"], ["12"], [None, 0]),
        (["ab c", "d"], ["ab", "cd"], ["ambiguous", 1]),  # a token of two words
        (["ab c", "d"], ["ab cd"], [0, 0]),  # of one region
        (["中", "文字"], ["文", "字"], [None, "ambiguous"]),  # characters are words
        (["中", "文", "字"], ["中文", "字"], [0, 0, 1]),
        (["\uff11\uff12"], ["12"], [0]),  # full width
        ([" ", "\n", "ab"], ["ab"], [None, None, 0]),
        (["ab"], [], [None]),
        ([], ["ab"], []),
        (["ab"], ["", "  ", "ab"], [2]),
        (["?"], ["?", "a"], [0]),
    ],
)
def test_tokens_belong_to_the_one_region_that_has_their_word(tokens, regions, expected):
    assert by_token(tokens, regions) == expected


@pytest.mark.parametrize(
    "tokens, regions, expected",
    [
        (["a", " dog"], ["dog", "traffic light"], [None, 0]),
        (["a", " traffic", " li", "ght", "."], ["dog", "traffic light"], [None, 1, 1, 1, None]),
        (["light"], ["traffic light"], [None]),
        (["traffic", " and", " light"], ["traffic light"], [None, None, None]),
        (["hot", " dog", " dog"], ["dog", "hot dog"], [1, 1, 0]),  # the longest name
        (["dog", " dog"], ["dog"], [0, "repeated"]),
        (["dogs"], ["dog"], [None]),
    ],
)
def test_things_are_named_by_their_whole_name(tokens, regions, expected):
    assert by_token(tokens, regions, whole=True) == expected


class Bytes:
    """A tokenizer whose tokens are bytes; 0 is special."""

    def decode(self, tokens, skip_special_tokens, clean_up_tokenization_spaces):
        assert skip_special_tokens and not clean_up_tokenization_spaces
        return bytes(token for token in tokens if token).decode("utf-8", errors="replace")


def test_bytes_of_one_character_all_have_it():
    tokens = list("aé€ b".encode())
    text, spans = pieces(Bytes(), tokens)
    assert text == "aé€ b"
    assert spans == [(0, 1), (1, 2), (1, 2), (2, 3), (2, 3), (2, 3), (3, 4), (4, 5)]


def test_special_tokens_have_no_characters():
    assert pieces(Bytes(), [97, 0, 98, 0]) == ("ab", [(0, 1), (1, 1), (1, 2), (2, 2)])
    assert pieces(Bytes(), []) == ("", [])


def test_bytes_that_are_no_text_match_nothing():
    text, spans = pieces(Bytes(), [97, 0xFF, 98])
    assert len(spans) == 3 and spans[-1][1] == len(text)
    assert [one.found for one in match(text, spans, ["ab", "b"])] == ["unknown"] * 3


@given(st.text("ab: ", max_size=12))
def test_characters_of_the_tiny_models_tokenizer_are_their_own_pieces(said):
    tokenizer = build_tokenizer()
    ids = tokenizer(said, add_special_tokens=False)["input_ids"]
    text, spans = pieces(tokenizer, ids)
    assert text == said and spans == [(index, index + 1) for index in range(len(said))]


@given(st.lists(st.sampled_from(["ab", "cd", "ef."]), max_size=8), st.data())
def test_where_the_tokenizer_cuts_changes_no_words_region(words, data):
    text = " ".join(words)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))) | {0, len(text)})
    spans = list(pairwise(cuts))
    regions = ["ab", "ef", "x cd"]
    whole = match(text, [(index, index + 1) for index in range(len(text))], regions)
    for (start, end), one in zip(spans, match(text, spans, regions), strict=True):
        here = {
            each for each, letter in zip(whole[start:end], text[start:end], strict=True) if letter.isalnum()
        }
        assert not here or one in here or one.found == "ambiguous"
        assert len(here) != 1 or one in here
