r"""LLaVA-NeXT (LLaVA-1.6): the whole image in one tile, then again in several, at almost any resolution.

The paper used the original repository's models and templates; the adapter uses the ports under llava-hf.
- Text: `vicuna_v1` begins with "A chat between a curious user ...", the port's template for Vicuna does not.
  Given as `system` (conf/protocol/paper.yaml) it makes the characters equal. `mistral_instruct` and the
  port's template for Mistral are equal.
- Tokens: the original tokenizes what stands before and behind <image> apart, so that a lone SentencePiece
  space begins the part behind it. Whether the port's tokenizer puts one there is up to its files; where it
  does not, a `template` that writes '<image> \n' does.
- Images: the original shows MMBench's in one tile, cropped to a square (image_aspect_ratio=original); the
  port's model always reads tiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from PIL import Image

from sparsemm.methods.base import ModelShape
from sparsemm.models.base import Box, ModelAdapter, Prompt
from sparsemm.models.loading import TransformersModel, touched

if TYPE_CHECKING:
    from torch import Tensor

IMAGE_TOKEN = "<image>"
# what transformers' LlamaConfig and MistralConfig say where the config.json of the ports is silent
TEXT_MODELS = {
    "llama": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32},
    "mistral": {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}


@dataclass(frozen=True, kw_only=True)
class LlavaNext(ModelAdapter):
    """LLaVA-NeXT with a Llama (Vicuna) or Mistral text model, from a hub id or a local folder."""

    model_type: ClassVar[str] = "llava_next"
    text_defaults: ClassVar[Mapping[str, Mapping[str, int]]] = TEXT_MODELS

    def shape(self) -> ModelShape:
        """Layers and heads, read from config.json alone."""
        config = self.config()
        text = self.text_config().get("model_type")
        if text not in TEXT_MODELS:
            raise ValueError(
                f"model.path={self.path}: the text model is {text}, expected {' or '.join(TEXT_MODELS)}. "
                "Take a port with Vicuna or Mistral."
            )
        strategy = config.get("vision_feature_select_strategy", "default")
        if strategy != "default":
            raise ValueError(
                f"model.path={self.path}: vision_feature_select_strategy={strategy} is not supported, "
                "LLaVA-1.6 has default. Correct config.json."
            )
        return super().shape()

    def load(self, device: torch.device) -> LoadedLlavaNext:
        """Read the weights."""
        self.check()
        return LoadedLlavaNext(self, device)


class LoadedLlavaNext(TransformersModel):
    """LLaVA-NeXT in memory, its processor on Pillow: the same pixels with and without torchvision."""

    def __init__(self, adapter: LlavaNext, device: torch.device):
        from transformers import LlavaNextImageProcessorPil, LlavaNextProcessor

        super().__init__(adapter, device, "LlavaNextForConditionalGeneration", IMAGE_TOKEN)
        folder: Any = str(adapter.folder)
        self.processor = LlavaNextProcessor.from_pretrained(folder, local_files_only=True)
        self.processor.image_processor = LlavaNextImageProcessorPil.from_pretrained(
            folder, local_files_only=True
        )

    def _prompt(self, images: list[Image.Image], question: str) -> Prompt:
        """Chat template with the images first; plain positions."""
        text = self._chat(len(images), question, self.processor)
        encoded = self.processor(images=self._as_sent(images) or None, text=text, return_tensors="pt")
        inputs = {
            name: encoded[name] for name in ("input_ids", "pixel_values", "image_sizes") if name in encoded
        }
        tokens = inputs["input_ids"].shape[1]
        inputs["position_ids"] = torch.arange(tokens)[None]
        return self._finish(inputs, tokens, images)

    def decode_positions(self, positions: Tensor) -> Tensor:
        """[R, 1]."""
        return positions[:, None]

    def _image_tokens(self, prompt: Prompt, box: Box, image: int) -> Tensor:
        """Tokens of the image squeezed into one tile, then of the tiles, without padding and newlines."""
        before = sum(Layout(self.model.config, size).tokens for size in prompt.image_sizes[:image])
        found = Layout(self.model.config, prompt.image_sizes[image]).see(box)
        return torch.tensor([before + token for token in found])


class Layout:
    """Where the tokens of one image stand.

    First side x side tokens of the squeezed image, row by row; then the tiles as one picture, in which the
    image keeps its proportions and is centred, without rows and columns of padding; a newline token ends each
    row.

    Args:
        config: the model's.
        size: width and height of the image as it came.
    """

    def __init__(self, config: Any, size: tuple[int, int]):
        from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
        from transformers.image_utils import ChannelDimension

        self.size, self.cell = size, int(config.vision_config.patch_size)
        self.side = int(config.vision_config.image_size) // self.cell
        width, height = size
        target = select_best_resolution((height, width), config.image_grid_pinpoints)
        empty = torch.empty(3, height, width, device="meta")
        self.resized = get_patch_output_size(empty, target, ChannelDimension.FIRST)
        self.offset = tuple((outer - inner) // 2 for outer, inner in zip(target, self.resized, strict=True))
        rows, columns = (side // self.cell for side in target)
        # as LlavaNextProcessor and the model's unpad_image compute them
        if width / height > columns / rows:
            cut = (rows - int(round(height * (columns / width), 7))) // 2, 0
        else:
            cut = 0, (columns - int(round(width * (rows / height), 7))) // 2
        self.rows, self.columns = range(cut[0], rows - cut[0]), range(cut[1], columns - cut[1])

    @property
    def tokens(self) -> int:
        """All tokens of the image, newlines included."""
        return self.side**2 + len(self.rows) * (len(self.columns) + 1)

    def see(self, box: Box) -> list[int]:
        """Tokens that see any part of a box in pixels of the image."""
        width, height = self.size
        (tall, wide), (above, beside) = self.resized, self.offset
        whole = self.side * self.cell
        base = [
            row * self.side + column
            for row in touched(box[1], box[3], height, whole, self.cell)
            for column in touched(box[0], box[2], width, whole, self.cell)
        ]
        tiles = [
            self.side**2 + (row - self.rows.start) * (len(self.columns) + 1) + column - self.columns.start
            for row in touched(box[1], box[3], height, tall, self.cell, above)
            for column in touched(box[0], box[2], width, wide, self.cell, beside)
            if row in self.rows and column in self.columns
        ]
        return base + tiles
