"""Prompts of an exact length: rendered pages through the model's own image processor, then text."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsemm.bench.shapes import BenchModel
from sparsemm.models.base import LoadedModel, Prompt
from sparsemm.tasks.pages import PageSpec, make_page

if TYPE_CHECKING:
    from PIL import Image

QUESTION = "What do these pages say?"
PAGE_PIXELS = 768  # a side of a page as it is rendered; it is then scaled to what the model reads well
CELLS = (32, 16, 8, 4)  # image tokens along a side of Qwen2-VL's pages, largest first
TILES = ((2, 2), (1, 2), (1, 1))  # LLaVA-NeXT's: tiles across and down, largest first


def make_prompt(loaded: LoadedModel, tokens: int, images: bool = True) -> Prompt:
    """A prompt of exactly `tokens` tokens, as many of them of images as pages give; the rest are text.

    Args:
        loaded: the model.
        tokens: T.
        images: whether there are pages.

    Raises:
        ValueError: fewer tokens than the chat template and the smallest page take.
    """
    if isinstance(loaded, BenchModel):
        ids = loaded.random_tokens(tokens)
        positions = torch.arange(tokens, device=ids.device)[None]
        return Prompt({"input_ids": ids, "position_ids": positions}, tokens, tokens)
    bare = loaded._prompt([], QUESTION)
    if bare.tokens > tokens:
        raise ValueError(
            f"prompts={tokens}: this model's chat template and a question take {bare.tokens} tokens. "
            "Raise prompts."
        )
    pages = _pages(loaded, tokens - bare.tokens, bare.tokens) if images else []
    if images and not pages:
        least = loaded._prompt([_page(0, sizes_of(loaded)[-1])], QUESTION).tokens
        raise ValueError(
            f"prompts={tokens}: this model's prompt with the smallest page takes {least + 1} tokens. "
            "Raise prompts, or set images=false."
        )
    return _filled(loaded, loaded._prompt(pages, QUESTION), tokens)


def image_tokens(loaded: LoadedModel, prompt: Prompt) -> int:
    """How many of a prompt's tokens stand for images."""
    image_id = getattr(loaded, "image_id", None)
    return 0 if image_id is None else int((prompt.inputs["input_ids"] == image_id).sum())


def sizes_of(loaded: LoadedModel) -> list[tuple[int, int]]:
    """Widths and heights of the pages that a family is given, in pixels, those with most tokens first."""
    vision: Any = loaded.model.config.vision_config
    if hasattr(vision, "image_size"):
        return [(across * vision.image_size, down * vision.image_size) for across, down in TILES]
    cell = vision.patch_size * vision.spatial_merge_size
    return [(side * cell, side * cell) for side in CELLS]


def _pages(loaded: LoadedModel, room: int, bare: int) -> list[Image.Image]:
    """Pages that take up to `room` tokens, large ones first."""
    found: list[Image.Image] = []
    for size in sizes_of(loaded):
        each = loaded._prompt([_page(0, size)], QUESTION).tokens - bare
        while room >= each + 1:  # a second image may be set off by a token of its own
            found.append(_page(len(found), size))
            room -= each + 1
    return found


def _page(index: int, size: tuple[int, int]) -> Image.Image:
    return _rendered(index % 8).resize(size)


@lru_cache(maxsize=8)
def _rendered(index: int) -> Image.Image:
    spec = PageSpec(kind="document", width=PAGE_PIXELS, height=PAGE_PIXELS, entries=(60, 60))
    return make_page("eval", spec, index).image.convert("RGB")


def _filled(loaded: LoadedModel, prompt: Prompt, tokens: int) -> Prompt:
    """The prompt with words before its last token, so that it has `tokens`; what follows moves on."""
    missing = tokens - prompt.tokens
    assert missing >= 0, (prompt.tokens, tokens)
    if not missing:
        return prompt
    inputs = dict(prompt.inputs)
    last = prompt.tokens - 1
    words = loaded.tokenizer(make_page("eval", PageSpec(kind="words"), 0).text, add_special_tokens=False)
    ids = torch.tensor(words["input_ids"], device=inputs["input_ids"].device)
    ids = ids.repeat(-(-missing // len(ids)))[:missing]
    inputs["input_ids"] = _spliced(inputs["input_ids"], last, ids)
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = _spliced(inputs["mm_token_type_ids"], last, torch.zeros_like(ids))
    positions = inputs["position_ids"]  # [1, T], or [3, 1, T]: equal in all three where there is text
    end = positions[..., last:]
    between = end + torch.arange(missing, device=end.device)
    inputs["position_ids"] = torch.cat([positions[..., :last], between, end + missing], dim=-1)
    return Prompt(inputs, tokens, prompt.next_position + missing, prompt.image_sizes)


def _spliced(row: Tensor, place: int, more: Tensor) -> Tensor:
    """[1, T] with more [m] before `place`."""
    return torch.cat([row[:, :place], more[None].to(row.dtype), row[:, place:]], dim=1)
