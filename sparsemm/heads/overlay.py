"""Where chosen heads look on one image while its words are being read."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from sparsemm.heads.data.base import HeadSample, HeadSource
from sparsemm.heads.match import match, pieces, words
from sparsemm.heads.search import region_tokens
from sparsemm.heads.watch import Head, read
from sparsemm.models.base import Box, LoadedModel, Prompt

WORDS = 3  # of a sample, evenly spaced over its answer
POINTS = ((1024, 64), (1 << 30, 128))  # (longest side in pixels, points of the heat map along it)


@dataclass(frozen=True)
class Spoken:
    """One word while it was said.

    Args:
        before, word, after: the answer around it.
        box: its region.
        heat: [K, rows, columns] float32: each head's attention to the image, spread over it; sums to its
            share of all attention, the mean over the word's tokens.
        inside: [K] float32: share of each head's attention that lies on the region's image tokens.
    """

    before: str
    word: str
    after: str
    box: Box
    heat: Tensor
    inside: Tensor


@dataclass(frozen=True)
class Shown:
    """One sample with its words."""

    id: str
    image: Image.Image
    words: tuple[Spoken, ...]


def choose_heads(scores: Tensor) -> tuple[list[Head], list[Head]]:
    """The three best heads of scores [L, Hq], and two of the worse half in the layers nearest to the best."""
    heads = scores.shape[1]
    order: list[Head] = [
        divmod(place, heads) for place in scores.flatten().sort(descending=True, stable=True).indices.tolist()
    ]
    best = order[: min(3, len(order))]
    others = [place for place in order[len(order) // 2 :] if place not in best]
    near = sorted(others, key=lambda place: (abs(place[0] - best[0][0]), float(scores[place]), place[1]))
    return best, near[:2]


def show_sample(
    loaded: LoadedModel, sample: HeadSample, source: HeadSource, heads: Sequence[Head]
) -> Shown | None:
    """Read a sample once more and keep what the heads attend to; None with fewer than WORDS matched words."""
    image = sample.image()
    prompt = loaded.prompt(image, source.question)
    reading = read(loaded, prompt, source.max_new_tokens, heads)
    text, spans = pieces(loaded.tokenizer, reading.tokens)
    found = match(text, spans, [region.text for region in sample.regions], source.whole)
    said: list[tuple[tuple[int, int], int, list[int]]] = []  # characters, region, tokens
    for start, end in words(text):
        here = [
            place
            for place, (left, right) in enumerate(spans)
            if left < end and right > start and found[place].region is not None
        ]
        if here and len(region_tokens(loaded, prompt, _box(sample, found[here[0]].region))):
            said.append(((start, end), int(found[here[0]].region or 0), here))
    if len(said) < WORDS:
        return None
    spread = _spread(loaded, prompt)
    shown = []
    for (start, end), region, tokens in (
        said[(len(said) - 1) * (place + 1) // (WORDS + 1)] for place in range(WORDS)
    ):
        attention = reading.attention[tokens].mean(0)  # [K, T]
        box = sample.regions[region].box
        inside = attention[:, region_tokens(loaded, prompt, box)].sum(-1)
        rows, columns = spread.shape[:2]
        heat = (attention @ spread.view(rows * columns, -1).T).view(-1, rows, columns)
        shown.append(Spoken(text[:start], text[start:end], text[end:], box, heat, inside))
    return Shown(sample.id, image, tuple(shown))


def _box(sample: HeadSample, region: int | None) -> Box:
    assert region is not None
    return sample.regions[region].box


def _spread(loaded: LoadedModel, prompt: Prompt) -> Tensor:
    """[rows, columns, T] float32: the share of a token's attention that each point of the image gets."""
    width, height = prompt.image_sizes[0]
    longest = max(width, height)
    points = next(points for limit, points in POINTS if longest <= limit)
    columns, rows = (max(1, round(points * side / longest)) for side in (width, height))
    seen = torch.zeros(rows, columns, prompt.tokens)
    for row in range(rows):
        for column in range(columns):
            x, y = (column + 0.5) * width / columns, (row + 0.5) * height / rows
            tokens = loaded.box_tokens(prompt, (x - 0.01, y - 0.01, x + 0.01, y + 0.01))
            seen[row, column, tokens.cpu()] = 1
    shared: Tensor = seen / seen.sum((0, 1)).clamp(min=1)
    return shared
