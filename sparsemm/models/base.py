"""What the engine needs of a model, and what an adapter provides. One file per model family."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from sparsemm.methods.base import ModelShape
from sparsemm.needs import Need
from sparsemm.paths import resolve

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ATTENTIONS = ("sdpa",)  # that can read prompts
_WHOLE_FILE = 256 * 2**20  # bytes; of larger files only size, first and last MiB enter the content id


Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Prompt:
    """One question about some images, ready for the model.

    Args:
        inputs: what the model's forward takes, batch of one, position ids included.
        tokens: T.
        next_position: the position of the first answer token.
        image_sizes: (width, height) of the images as they came, in pixels.
    """

    inputs: dict[str, Tensor]
    tokens: int
    next_position: int
    image_sizes: tuple[tuple[int, int], ...] = ()


class LoadedModel(ABC):
    """A model in memory, with its prompt format."""

    model: Any
    tokenizer: Any
    shape: ModelShape
    device: torch.device
    eos_ids: tuple[int, ...]  # a generated token among them ends the answer
    repetition_penalty: float = 1.0  # of tokens that the prompt or the answer holds, as in generate()
    context: int | None = None  # most tokens of prompt and answer together, where the model sets a limit

    def prompt(self, images: Image.Image | Sequence[Image.Image], question: str) -> Prompt:
        """Encode images (first) and a question.

        Raises:
            ValueError: what this model cannot read.
        """
        found = [images] if isinstance(images, Image.Image) else list(images)
        return self._prompt([image.convert("RGB") for image in found], question)

    @abstractmethod
    def _prompt(self, images: list[Image.Image], question: str) -> Prompt:
        """Encode RGB images and a question."""

    def box_tokens(self, prompt: Prompt, box: Box, image: int = 0) -> Tensor:
        """[k] int64: where in the prompt the image tokens stand that see any part of a box.

        Args:
            prompt: as made by `prompt`.
            box: left, top, right, bottom in pixels of the image as it came; right and bottom are outside.
            image: which of the prompt's images.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say where the tokens of a box are")

    @abstractmethod
    def decode_positions(self, positions: Tensor) -> Tensor:
        """Position ids of one new token per row, from positions [R]."""

    def text(self, token_ids: Sequence[int]) -> str:
        """The text of generated tokens, special tokens left out."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True)).strip()


@dataclass(frozen=True, kw_only=True)
class ModelAdapter(ABC):
    """A model as configuration: nothing is read until it is asked for."""

    name: str
    path: str  # a hub id, a local folder, or pkg://package/folder
    dtype: str
    attention: str
    revision: str | None = None  # of a hub id: branch, tag or commit
    device_map: str | None = None  # how accelerate spreads the weights: auto, balanced, ...; null: one device
    head_scores: str | None = None
    system: str | None = None  # system prompt; null: what the chat template says
    jpeg: bool = False  # images are re-encoded as JPEG (Pillow's default quality) before the processor
    eos: Literal["tokenizer", "generation_config"] = "tokenizer"  # whose end tokens end an answer
    generation_config: bool = False  # the model's own repetition penalty applies
    stop_strings: bool = True  # an answer ends at its task's stop strings
    max_new_tokens: int = 128  # of tasks that name no limit

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"model.dtype={self.dtype}: must be one of {', '.join(DTYPES)}.")
        if self.attention not in ATTENTIONS:
            raise ValueError(f"model.attention={self.attention}: must be one of {', '.join(ATTENTIONS)}.")
        if self.max_new_tokens < 1:
            raise ValueError(f"model.max_new_tokens={self.max_new_tokens}: must be at least 1.")

    def needs(self) -> tuple[Need, ...]:
        """What must be brought before this model can be loaded; the shape is known only where it is empty."""
        return ()

    @property
    def folder(self) -> Path:
        """The model's folder."""
        return resolve(self.path)

    def check(self) -> None:
        """Raise ValueError where the folder is missing or holds no model of this family."""
        self.shape()
        if not list(self.folder.glob("*.safetensors")):
            raise ValueError(
                f"model.path={self.path}: no .safetensors file there. Convert the weights to safetensors."
            )

    def config(self) -> dict[str, Any]:
        """The model's config.json."""
        file = self.folder / "config.json"
        if not self.folder.is_dir():
            raise ValueError(
                f"model.path={self.path}: no such folder. Give a folder with config.json and safetensors."
            )
        if not file.is_file():
            raise ValueError(
                f"model.path={self.path}: not a model, config.json is missing. "
                "Give a folder saved by save_pretrained."
            )
        try:
            config = json.loads(file.read_text())
        except ValueError as error:
            raise ValueError(
                f"model.path={self.path}: config.json is not valid JSON ({error}). Save the model again."
            ) from None
        if not isinstance(config, dict):
            raise ValueError(
                f"model.path={self.path}: config.json is not a model's configuration. Save the model again."
            )
        return config

    def content_id(self) -> str:
        """A hash of everything in the folder that can change an answer."""
        return _content_id(self.folder)

    @abstractmethod
    def shape(self) -> ModelShape:
        """Layers and heads, read from config.json alone."""

    @abstractmethod
    def load(self, device: torch.device) -> LoadedModel:
        """Read the weights."""


@lru_cache(maxsize=64)
def _content_id(folder: Path) -> str:
    whole = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix not in {".json", ".safetensors", ".txt", ".jinja", ".model"} or file.name in {
            "heads.json",
            "training.json",
        }:
            continue
        size = file.stat().st_size
        whole.update(f"{file.name}:{size}:".encode())
        with file.open("rb") as stream:
            if size <= _WHOLE_FILE:
                whole.update(stream.read())
            else:
                whole.update(stream.read(2**20))
                stream.seek(-(2**20), 2)
                whole.update(stream.read())
    return whole.hexdigest()[:20]
