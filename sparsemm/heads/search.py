"""Find a model's visual heads: which heads look at the words that are being read.

Every image is read aloud greedily. For every generated token that belongs to a word of exactly one region
of the image, each query head whose strongest attention (last query, over all keys, at the step that
predicts the token) falls on an image token of the region scores 1 / (image tokens of the region). A
sample's score is the sum over its tokens; a head's score is the mean over samples (arXiv:2506.05344). The
published code matches single tokens within the regions' text, as often as they come, and of LLaVA-NeXT's
image tokens it knows those of the tiles; ours matches decoded words (`sparsemm.heads.match`), each as often
as its region has it, and a region has tokens in the squeezed image, too.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sparsemm.heads.data.base import HeadSample, HeadSource, image_id
from sparsemm.heads.match import match, pieces
from sparsemm.heads.partial import Found, Partial, Shard, merge
from sparsemm.heads.watch import read
from sparsemm.models.base import Box, LoadedModel, ModelAdapter, Prompt

SETTLED = (
    "name",
    "path",
    "revision",
    "head_scores",
    "device_map",
)  # the content id says more, or nothing changes
GIT_UNKNOWN = {"commit": None, "dirty": None}


class Bar(Protocol):
    """What shows progress."""

    def update(self, n: int) -> object:
        """So many samples more are done."""


Progress = Callable[[int, int], AbstractContextManager[Bar]]  # all samples, those that are done


@dataclass(frozen=True)
class Scored:
    """One sample.

    Args:
        scores: [L, Hq] float64.
        counts: what happened to its tokens and regions.
        text: what the model said.
        image: hash of the pixels.
    """

    scores: Tensor
    counts: Counter[str]
    text: str
    image: str


class _Silent:
    def update(self, n: int) -> None:
        pass


def in_silence(total: int, done: int) -> AbstractContextManager[Bar]:
    """Progress that nobody sees."""
    return nullcontext(_Silent())


def find_heads(
    adapter: ModelAdapter,
    source: HeadSource,
    samples: int,
    out: Path,
    load: Callable[[], LoadedModel],
    git: dict[str, object] | None = None,
    shard: Shard = (0, 1),
    progress: Progress = in_silence,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """Search the visual heads of a model and write them to `out`.

    What is found is appended, sample by sample, to a file in a folder beside `out` (`heads/samples.jsonl`
    for `heads.json`), so that a search that was stopped goes on where it stopped.

    Args:
        adapter: the model.
        source: images with regions.
        samples: how many of them, from the first; fewer where there are fewer.
        out: the head-score file.
        load: brings the model into memory; called where there is anything to do.
        git: commit and dirty flag of the code, for the file.
        shard: which of how many jobs this is; the one that ends last writes the file.
        progress: shows it, given all samples and those that are done.
        stop: asked before every sample; where it says so, the search ends there.

    Returns:
        The content of the file; None where it was stopped, or other shards have samples to do.

    Raises:
        ValueError: no samples, data that cannot be read, partial results of another search beside `out`, or
            nothing matched.
    """
    if samples < 1:
        raise ValueError(f"samples={samples}: must be at least 1.")
    count = min(samples, len(source))
    if not count:
        raise ValueError(f"heads: {source.data_id()} has no samples. Give other data.")
    if count < samples:
        print(f"{source.data_id()} has {count} samples, {samples} were asked for.")
    shape = adapter.shape()
    partial = Partial.open(
        out,
        {
            "model": adapter.content_id(),
            "data": source.data_id(),
            "question": source.question,
            "max_new_tokens": source.max_new_tokens,
            "settings": {key: value for key, value in asdict(adapter).items() if key not in SETTLED},
            "shape": [shape.layers, shape.query_heads],
        },
        shard,
    )
    mine = range(shard[0], count, shard[1])
    todo = [index for index in mine if index not in partial.found]
    if todo:
        loaded = load()
        with progress(len(mine), len(mine) - len(todo)) as bar:
            for index in todo:
                if stop():
                    return None
                sample = source.sample(index)
                scored = score_sample(loaded, sample, source)
                partial.add(Found(index, sample.id, scored.image, scored.counts, scored.scores))
                bar.update(1)
    partial.refresh()
    if any(index not in partial.found for index in range(count)):
        return None
    return merge(out, partial, count, samples, adapter.name, git or GIT_UNKNOWN)


def score_sample(loaded: LoadedModel, sample: HeadSample, source: HeadSource) -> Scored:
    """Read one image aloud and score its heads."""
    image = sample.image()
    prompt = loaded.prompt(image, source.question)
    reading = read(loaded, prompt, source.max_new_tokens)
    text, spans = pieces(loaded.tokenizer, reading.tokens)
    found = match(text, spans, [region.text for region in sample.regions], source.whole)
    counts = Counter({"tokens": len(reading.tokens), "cut": int(reading.cut), "regions": len(sample.regions)})
    counts.update(one.found for one in found)
    scores = torch.zeros(loaded.shape.layers, loaded.shape.query_heads, dtype=torch.float64)
    places: dict[int, Tensor] = {}
    for look, one in zip(reading.looks, found, strict=True):
        if one.region is None:
            continue
        if one.region not in places:
            places[one.region] = region_tokens(loaded, prompt, sample.regions[one.region].box)
        wanted = places[one.region]
        if not len(wanted):
            counts["outside"] += 1
            counts["matched"] -= 1
            continue
        inside = torch.isin(look, wanted)
        scores += inside.double() / len(wanted)
        counts["hits"] += int(inside.sum())
    return Scored(scores, counts, text, image_id(image))


def region_tokens(loaded: LoadedModel, prompt: Prompt, box: Box) -> Tensor:
    """[k] int64: image tokens of a region's box within the image; none where the box is empty or outside."""
    width, height = prompt.image_sizes[0]
    left, top, right, bottom = box
    inside = (max(0, left), max(0, top), min(width, right), min(height, bottom))
    if not (inside[0] < inside[2] and inside[1] < inside[3]):
        return torch.empty(0, dtype=torch.long)
    return loaded.box_tokens(prompt, inside).cpu()
