"""The pages that the tiny model learns from, as batches: a curriculum from one entry to full pages."""

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sparsemm.models.tiny import MERGE, PATCH_PIXELS, build_tokenizer
from sparsemm.tasks.pages import Kind, PageSpec, make_page

IGNORE = -100


@dataclass(frozen=True)
class Stage:
    """A page size of the curriculum. `pages` is the number of pages in a step."""

    width: int
    height: int
    entries: tuple[int, int]
    font_size: tuple[int, int]  # pixels
    pages: int
    pass_mark: float  # share of answer characters that ends the stage


STAGES = (
    Stage(96, 16, (1, 1), (11, 14), 64, 0.72),
    Stage(96, 32, (2, 2), (13, 18), 48, 0.80),
    Stage(112, 64, (3, 5), (13, 18), 32, 0.77),
    Stage(176, 128, (4, 7), (15, 20), 24, 0.82),
    Stage(192, 176, (6, 10), (15, 20), 16, 0.86),
    Stage(224, 208, (8, 12), (15, 20), 16, 0.88),
    Stage(256, 256, (10, 13), (17, 20), 12, 2.0),
    Stage(384, 384, (12, 24), (15, 20), 5, 2.0),  # mixed into the last stage: larger pages are read as well
)
LAST = len(STAGES) - 2
MIX: dict[Kind, float] = {
    "document": 0.8,
    "chart": 0.1,
    "words": 0.1,
}  # share of the steps, from the fourth stage on


@dataclass(frozen=True)
class Batch:
    """ids, labels [B, T]; positions [3, B, T]; pixels [B * patches, 3 * 8 * 8]; grid [B, 3]."""

    ids: Tensor
    labels: Tensor
    positions: Tensor
    pixels: Tensor
    grid: Tensor
    reading: bool  # read everything, instead of answering questions


def patches(images: np.ndarray) -> np.ndarray:
    """[B, height, width] grey 0..255 -> [B * patches, 3 * 8 * 8] in the order of Qwen2-VL's processor."""
    count, height, width = images.shape
    side = PATCH_PIXELS * MERGE
    ink = (images.astype(np.float32) / 255 - 1.0) / 0.5
    blocks = ink.reshape(count, height // side, MERGE, PATCH_PIXELS, width // side, MERGE, PATCH_PIXELS)
    flat = blocks.transpose(0, 1, 4, 2, 5, 3, 6).reshape(-1, 1, PATCH_PIXELS * PATCH_PIXELS)
    return np.repeat(flat, 3, axis=1).reshape(len(flat), -1)


def make_batch(seed: int, step: int, stage_index: int) -> Batch:
    """The batch of a step; the same everywhere for the same arguments."""
    rng = random.Random(f"{seed}/{step}/{stage_index}")
    stage = STAGES[stage_index]
    kind: Kind = rng.choices(list(MIX), list(MIX.values()))[0] if stage_index >= 3 else "document"
    entries = (stage.entries[0], max(stage.entries)) if kind != "chart" else (3, 8)
    if kind == "words":
        entries = (2, max(3, stage.entries[1] // 2))
    spec = PageSpec(
        kind=kind, width=stage.width, height=stage.height, entries=entries, font_size=stage.font_size
    )
    reading = kind == "words" or rng.random() < 0.35
    tokenizer = build_tokenizer()
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    image, images, rows = [], [], []
    tokens = stage.width * stage.height // (PATCH_PIXELS * MERGE) ** 2
    image = [
        tokenizer.convert_tokens_to_ids(t) for t in ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
    ]
    for place in range(stage.pages):
        page = make_page("train", spec, (seed * 10**9 + step) * 1000 + place)
        images.append(np.asarray(page.image))
        ids = [image[0], *[image[1]] * tokens, image[2]]
        labels = [IGNORE] * len(ids)
        pairs = [("read", page.text)] if reading else rng.sample(page.pairs, min(len(page.pairs), 12))
        for key, value in pairs:
            question, answer = encode(f"{key}?"), [*encode(value), end]
            ids += question + answer
            labels += [IGNORE] * len(question) + answer
        rows.append((ids, labels))
    longest = max(len(ids) for ids, _ in rows)
    grid_h, grid_w = stage.height // PATCH_PIXELS, stage.width // PATCH_PIXELS
    return Batch(
        torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows]),
        torch.tensor([labels + [IGNORE] * (longest - len(labels)) for _, labels in rows]),
        _positions(grid_h // MERGE, grid_w // MERGE, longest)[:, None].expand(3, stage.pages, longest),
        torch.from_numpy(patches(np.stack(images))),
        torch.tensor([[1, grid_h, grid_w]] * stage.pages),
        reading,
    )


def _positions(height: int, width: int, length: int) -> Tensor:
    """M-RoPE positions [3, length] of: start mark, height x width image tokens, text."""
    grid = torch.stack(
        torch.meshgrid(torch.arange(1), torch.arange(height), torch.arange(width), indexing="ij")
    ).reshape(3, -1)
    text = torch.arange(length - 1 - height * width) + max(height, width) + 1
    return torch.cat([torch.zeros(3, 1), grid + 1, text.expand(3, -1)], dim=1).long()


def choose_stage(rng: random.Random, now: int) -> int:
    """Mostly the present stage; sometimes one of the two before it, and at the end the largest page."""
    draw = rng.random()
    if now == LAST and draw < 0.1:
        return LAST + 1
    return rng.randint(max(0, now - 2), now - 1) if now and draw < 0.2 else now
