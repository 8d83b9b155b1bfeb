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
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from sparsemm.heads.data.base import HeadSample, HeadSource, image_id
from sparsemm.heads.files import Found, Partial, write_heads
from sparsemm.heads.match import match, pieces
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


def find_heads(
    adapter: ModelAdapter,
    source: HeadSource,
    samples: int,
    out: Path,
    device: torch.device,
    git: dict[str, object] | None = None,
) -> None:
    """Search the visual heads of a model and write them to `out`.

    What is found is appended, sample by sample, to a file beside `out` (`heads.samples.jsonl` for
    `heads.json`), so that a search that was stopped goes on where it stopped.

    Args:
        adapter: the model.
        source: images with regions.
        samples: how many of them, from the first; fewer where there are fewer.
        out: the head-score file.
        device: where the model runs.
        git: commit and dirty flag of the code, for the file.

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
    )
    todo = [index for index in range(count) if index not in partial.found]
    if todo:
        loaded = adapter.load(device)
        progress = tqdm(todo, desc="reading", unit="image", initial=count - len(todo), total=count)
        for index in progress:
            sample = source.sample(index)
            scored = score_sample(loaded, sample, source)
            partial.add(Found(index, sample.id, scored.image, scored.counts, scored.scores))
    content = write_heads(out, partial, range(count), samples, adapter.name, git or GIT_UNKNOWN)
    counts = content["counts"]
    print(
        f"{out}: {content['samples']} samples, {counts['matched']} of {counts['tokens']} tokens matched"
        + (f", {content['unmatched']} samples without a match" if content["unmatched"] else "")
    )


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
