"""Which region of an image every generated token says: by decoded words, never by pieces of them."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

# scripts without spaces between words (kana, Chinese characters): every character is one
_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORDS = re.compile(rf"[{_ALONE}]|[^\s{_ALONE}]+")
Span = tuple[int, int]  # first character, end (outside)
Found = Literal["matched", "repeated", "ambiguous", "unknown"]


@dataclass(frozen=True)
class Match:
    """What one token says.

    Args:
        found: matched (a word of exactly one region), repeated (such a word, more often than the region
            has it), ambiguous (a word of several regions), or unknown (no word of a region, or no word at
            all).
        region: index of the region of a matched token.
    """

    found: Found
    region: int | None = None


UNKNOWN = Match("unknown")


def pieces(tokenizer: Any, tokens: Sequence[int]) -> tuple[str, list[Span]]:
    """The text of generated tokens, and the characters that each of them adds to it.

    Special tokens add none. Tokens that share a character, as bytes of it, all have that character.
    """
    spans: list[Span] = []
    start, text = 0, ""
    for count in range(1, len(tokens) + 1):
        text = tokenizer.decode(
            list(tokens[:count]), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        end = len(text.rstrip("\ufffd"))  # where an incomplete character begins
        if end < len(text):
            spans.append((start, start + 1))
        else:
            spans.append((start, max(start, end)))
            start = max(start, end)
    return text, spans


def words(text: str) -> list[Span]:
    """Where the words of a text are."""
    return [(word.start(), word.end()) for word in _WORDS.finditer(text)]


def match(text: str, spans: Sequence[Span], regions: Sequence[str], whole: bool = False) -> list[Match]:
    """What every token says.

    Words are compared without case and without punctuation at their ends, in Unicode's compatible form. A
    word counts as often as its region has it, so an answer that goes round in circles gains nothing.

    Args:
        text: the decoded answer.
        spans: characters of each token, as `pieces` tells them.
        regions: the text of every region.
        whole: only a region's whole text counts ("traffic light", never "light"); else each of its words
            does.
    """
    said = words(text)
    keys = [_key(text[start:end]) for start, end in said]
    known: dict[tuple[str, ...], Counter[int]] = {}
    raw: list[set[str]] = []  # of every region: its words as they stand, but for case
    for index, region in enumerate(regions):
        own = _WORDS.findall(region)
        raw.append({word.casefold() for word in own})
        for sequence in [tuple(map(_key, own))] if whole else [(_key(word),) for word in own]:
            if sequence:
                known.setdefault(sequence, Counter())[index] += 1
    longest = max(map(len, known), default=1)
    marks: list[tuple[Span, Match]] = []
    at = 0
    while at < len(said):
        length = next((size for size in range(longest, 0, -1) if tuple(keys[at : at + size]) in known), 1)
        here = _say(known.get(tuple(keys[at : at + length]), Counter()))
        for span in said[at : at + length]:
            as_there = here.region is not None and text[slice(*span)].casefold() in raw[here.region]
            marks.append((span if as_there else _core(text, span), here))
        at += length
    return _of_tokens(spans, marks)


def _say(regions: Counter[int]) -> Match:
    """Use up one occurrence of a word."""
    if not regions:
        return UNKNOWN
    if len(regions) > 1:
        return Match("ambiguous")
    (index,) = regions
    if not regions[index]:
        return Match("repeated")
    regions[index] -= 1
    return Match("matched", index)


def _of_tokens(spans: Sequence[Span], marks: Sequence[tuple[Span, Match]]) -> list[Match]:
    found, first = [], 0
    for start, end in spans:
        while first < len(marks) and marks[first][0][1] <= start:
            first += 1
        here = []
        for (left, right), mark in marks[first:]:
            if left >= end:
                break
            if right > start:
                here.append(mark)
        found.append(UNKNOWN if not here else here[0] if len(set(here)) == 1 else Match("ambiguous"))
    return found


def _core(text: str, span: Span) -> Span:
    """The span without punctuation at its ends; all of it where there is nothing else."""
    start, end = span
    while start < end and not text[start].isalnum():
        start += 1
    while end > start and not text[end - 1].isalnum():
        end -= 1
    return (start, end) if start < end else span


def _key(word: str) -> str:
    return unicodedata.normalize("NFKC", word[slice(*_core(word, (0, len(word))))]).casefold()
