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

WORDS = 3  # of a sample at most, evenly spaced over its answer
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
    """Read a sample once more and keep what the heads attend to; None without a matched word."""
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
    if not said:
        return None
    chosen = [said[(len(said) - 1) * (place + 1) // (WORDS + 1)] for place in range(WORDS)]
    chosen = chosen if len(said) >= 2 * WORDS else said[:WORDS]
    spread = _spread(loaded, prompt)
    shown = []
    for (start, end), region, tokens in chosen:
        attention = reading.attention[tokens].mean(0)  # [K, T]
        box = sample.regions[region].box
        inside = attention[:, region_tokens(loaded, prompt, box)].sum(-1)
        heat = spread.heat(attention)
        shown.append(Spoken(text[:start], text[start:end], text[end:], box, heat, inside))
    return Shown(sample.id, image, tuple(shown))


def _box(sample: HeadSample, region: int | None) -> Box:
    assert region is not None
    return sample.regions[region].box


@dataclass(frozen=True)
class _Spread:
    """Which tokens see which points of an image, as pairs."""

    rows: int
    columns: int
    points: Tensor  # [n] int64, row * columns + column
    tokens: Tensor  # [n] int64
    shares: Tensor  # [n] float32, of the token's attention that the point gets

    def heat(self, attention: Tensor) -> Tensor:
        """[K, rows, columns] of attention [K, T]."""
        heat = torch.zeros(len(attention), self.rows * self.columns)
        heat.index_add_(1, self.points, attention[:, self.tokens] * self.shares)
        return heat.view(-1, self.rows, self.columns)


def _spread(loaded: LoadedModel, prompt: Prompt) -> _Spread:
    width, height = prompt.image_sizes[0]
    longest = max(width, height)
    most = next(points for limit, points in POINTS if longest <= limit)
    columns, rows = (max(1, round(most * side / longest)) for side in (width, height))
    seen: list[Tensor] = []
    for row in range(rows):
        for column in range(columns):
            x, y = (column + 0.5) * width / columns, (row + 0.5) * height / rows
            seen.append(loaded.box_tokens(prompt, (x - 0.01, y - 0.01, x + 0.01, y + 0.01)).cpu())
    points = torch.repeat_interleave(torch.arange(len(seen)), torch.tensor([len(one) for one in seen]))
    tokens = torch.cat(seen)
    return _Spread(rows, columns, points, tokens, 1 / torch.bincount(tokens)[tokens].float())
