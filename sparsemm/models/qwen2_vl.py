"""Qwen2-VL: the family of the tiny model."""

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sparsemm.methods.base import ModelShape
from sparsemm.models.base import DTYPES, LoadedModel, ModelAdapter, Prompt

IMAGE_TOKEN = "<|image_pad|>"


@dataclass(frozen=True, kw_only=True)
class Qwen2VL(ModelAdapter):
    """Qwen2-VL from a local folder."""

    max_pixels: int | None = None  # most pixels that an image may keep; null: the processor's own limit

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_pixels is not None and self.max_pixels <= 0:
            raise ValueError(f"model.max_pixels={self.max_pixels}: must be a positive number of pixels.")

    def shape(self) -> ModelShape:
        """Layers and heads, read from config.json alone."""
        config = self.config()
        if config.get("model_type") != "qwen2_vl":
            raise ValueError(
                f"model.path={self.path}: model_type={config.get('model_type')}, expected qwen2_vl. "
                "Choose its adapter."
            )
        text = config.get("text_config", config)
        try:
            heads = int(text["num_attention_heads"])
            return ModelShape(
                int(text["num_hidden_layers"]),
                heads,
                int(text["num_key_value_heads"]),
                int(text["hidden_size"]) // heads,
            )
        except KeyError as missing:
            raise ValueError(
                f"model.path={self.path}: config.json has no {missing}. Save the model again."
            ) from None

    def load(self, device: torch.device) -> "LoadedQwen2VL":
        """Read the weights."""
        self.check()
        return LoadedQwen2VL(self, device)


class LoadedQwen2VL(LoadedModel):
    """Qwen2-VL in memory. The image processor is used directly: the joint processor needs torchvision."""

    def __init__(self, adapter: Qwen2VL, device: torch.device):
        # planning reads shapes only: transformers, seconds to import, is for workers
        from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessorPil
        from transformers.utils.logging import disable_progress_bar

        from sparsemm.engine.attention import use_ragged_attention

        disable_progress_bar()  # the worker shows its own
        folder = str(adapter.folder)
        kwargs: dict[str, Any] = {"local_files_only": True}
        model = Qwen2VLForConditionalGeneration.from_pretrained(
            folder, dtype=DTYPES[adapter.dtype], use_safetensors=True, **kwargs
        )
        self.model = use_ragged_attention(model.to(device).eval(), adapter.attention)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, **kwargs)
        self.images = Qwen2VLImageProcessorPil.from_pretrained(folder, **kwargs)
        size = dict(self.images.size)
        most = adapter.max_pixels or size["longest_edge"]
        self.images.size = {**size, "longest_edge": min(most, size["longest_edge"])}
        self.shape, self.device = adapter.shape(), device
        self.image_id = self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self.eos_ids = (int(self.tokenizer.eos_token_id),)

    def _prompt(self, images: list[Image.Image], question: str) -> Prompt:
        """Chat template with the image first; M-RoPE positions from the model."""
        (image,) = images
        encoded = self.images(images=[image], return_tensors="pt")
        grid = encoded["image_grid_thw"]
        count = int(grid.prod()) // self.images.merge_size**2
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        ids = self.tokenizer(
            text.replace(IMAGE_TOKEN, IMAGE_TOKEN * count), add_special_tokens=False, return_tensors="pt"
        )["input_ids"]
        kinds = (ids == self.image_id).int()  # without them, generate() silently uses plain positions
        positions, _ = self.model.model.get_rope_index(ids, image_grid_thw=grid, mm_token_type_ids=kinds)
        inputs = {
            "input_ids": ids,
            "mm_token_type_ids": kinds,
            "position_ids": positions,
            "pixel_values": encoded["pixel_values"].to(self.model.dtype),
            "image_grid_thw": grid,
        }
        return Prompt(
            {name: tensor.to(self.device) for name, tensor in inputs.items()},
            ids.shape[1],
            int(positions.max()) + 1,
            (image.size,),
        )

    def decode_positions(self, positions: Tensor) -> Tensor:
        """[3, R, 1]: text tokens have the same position in all three parts of M-RoPE."""
        return positions[None, :, None].expand(3, -1, -1)
