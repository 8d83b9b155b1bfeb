"""Qwen2-VL: one grid of image tokens per image, at its own resolution; three-part positions (M-RoPE)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from PIL import Image

from sparsemm.models.base import Box, ModelAdapter, Prompt
from sparsemm.models.loading import TransformersModel, touched

if TYPE_CHECKING:
    from torch import Tensor

IMAGE_TOKEN = "<|image_pad|>"


@dataclass(frozen=True, kw_only=True)
class Qwen2VL(ModelAdapter):
    """Qwen2-VL from a hub id or a local folder.

    An image is resized to between `min_pixels` and `max_pixels`, both sides to multiples of 28 for the real
    model (merge_size * patch_size). The limits are those given here, whatever the folder's own are.
    """

    model_type: ClassVar[str] = "qwen2_vl"
    model_class: ClassVar[str] = "Qwen2VLForConditionalGeneration"

    min_pixels: int | None = None  # fewer are scaled up; null: the processor's own limit
    max_pixels: int | None = None  # more are scaled down; null: the processor's own limit

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("min_pixels", "max_pixels"):
            value = getattr(self, key)
            if value is not None and value <= 0:
                raise ValueError(f"model.{key}={value}: must be a positive number of pixels.")
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(
                f"model.min_pixels={self.min_pixels}: must not be above model.max_pixels={self.max_pixels}."
            )

    def load(self, device: torch.device) -> LoadedQwen2VL:
        """Read the weights."""
        self.check()
        return LoadedQwen2VL(self, device)


class LoadedQwen2VL(TransformersModel):
    """Qwen2-VL in memory. The image processor is used directly: the joint processor needs torchvision."""

    def __init__(self, adapter: Qwen2VL, device: torch.device):
        from transformers import Qwen2VLImageProcessorPil

        super().__init__(adapter, device, adapter.model_class, IMAGE_TOKEN)
        self.images = Qwen2VLImageProcessorPil.from_pretrained(str(adapter.folder), local_files_only=True)
        own = self.images.size
        self.images.size = {
            "shortest_edge": adapter.min_pixels or own["shortest_edge"],
            "longest_edge": adapter.max_pixels or own["longest_edge"],
        }

    def _prompt(self, images: list[Image.Image], question: str) -> Prompt:
        """Chat template with the images first; M-RoPE positions from the model."""
        text = self._chat(len(images), question, self.tokenizer)
        inputs: dict[str, Tensor] = {}
        grid = None
        if images:
            encoded = self.images(images=self._as_sent(images), return_tensors="pt")
            grid = encoded["image_grid_thw"]
            inputs = {"pixel_values": encoded["pixel_values"], "image_grid_thw": grid}
            first, *rest = text.split(IMAGE_TOKEN)
            for part, count in zip(rest, self._tokens_per_image(grid), strict=True):
                first += IMAGE_TOKEN * count + part
            text = first
        ids = self.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        kinds = (ids == self.image_id).int()  # without them, generate() silently uses plain positions
        positions, _ = self.model.model.get_rope_index(ids, image_grid_thw=grid, mm_token_type_ids=kinds)
        inputs |= {"input_ids": ids, "mm_token_type_ids": kinds, "position_ids": positions}
        return self._finish(inputs, int(positions.max()) + 1, images)

    def _tokens_per_image(self, grid: Tensor) -> list[int]:
        counts: list[int] = (grid.prod(dim=1) // self.images.merge_size**2).tolist()
        return counts

    def _image_tokens(self, prompt: Prompt, box: Box, image: int) -> Tensor:
        """Tokens stand row by row, each covering merge_size x merge_size patches of the resized image."""
        grid = prompt.inputs["image_grid_thw"].cpu()
        before = sum(self._tokens_per_image(grid)[:image])
        rows, columns = (int(side) // self.images.merge_size for side in grid[image, 1:])
        width, height = prompt.image_sizes[image]
        cell = self.images.patch_size * self.images.merge_size
        across = touched(box[0], box[2], width, columns * cell, cell)
        down = touched(box[1], box[3], height, rows * cell, cell)
        return torch.tensor([before + row * columns + column for row in down for column in across])

    def decode_positions(self, positions: Tensor) -> Tensor:
        """[3, R, 1]: text tokens have the same position in all three parts of M-RoPE."""
        return positions[None, :, None].expand(3, -1, -1)
