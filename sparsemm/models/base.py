"""What the engine needs of a model, and what an adapter provides. One file per model family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from PIL import Image

from sparsemm.methods.base import ModelShape
from sparsemm.models.folder import (
    content_id,
    folder_of,
    has_weights,
    missing_weights,
    read_json,
    repetition_penalty,
)
from sparsemm.needs import Need

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = ("float32", "bfloat16", "float16")
ATTENTIONS = ("sdpa", "eager", "flash_attention_2")  # that can read prompts
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
# architectures with an adapter (model_type in config.json), and the files of conf/model that use it
ARCHITECTURES = {
    "llava_next": ("llava_next_vicuna_7b", "llava_next_mistral_7b"),
    "qwen2_vl": ("qwen2_vl_7b",),
    "qwen2_5_vl": ("qwen2_5_vl_7b",),
}

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
    sliding_window: int | None = None  # tokens that a token may look back on, where some layer has a limit

    def prompt(self, images: Image.Image | Sequence[Image.Image], question: str) -> Prompt:
        """Encode images (first) and a question.

        Raises:
            ValueError: what this model cannot read.
        """
        found = [images] if isinstance(images, Image.Image) else list(images)
        prompt = self._prompt([image.convert("RGB") for image in found], question)
        self._check_length(prompt)
        return prompt

    def _check_length(self, prompt: Prompt) -> None:
        # a model in memory has imported it
        from sparsemm.engine.attention import refuse_sliding

        sizes = ", ".join(f"{width}x{height}" for width, height in prompt.image_sizes)
        of = f" (images of {sizes} pixels)" if sizes else ""
        refuse_sliding(prompt.tokens, self.sliding_window, f"the prompt{of} takes")
        if self.context is not None and prompt.tokens > self.context:
            raise ValueError(
                f"a prompt of {prompt.tokens} tokens{of}: the model reads at most {self.context} "
                "(max_position_embeddings). Use smaller or fewer images."
            )

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

    def text(self, token_ids: Sequence[int], stop_strings: Sequence[str] = ()) -> str:
        """The text of generated tokens before the first stop string, special tokens left out."""
        text = str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))
        for stop in stop_strings:
            text = text.split(stop)[0]
        return text.strip()


@dataclass(frozen=True, kw_only=True)
class ModelAdapter(ABC):
    """A model as configuration: nothing is read until it is asked for."""

    model_type: ClassVar[str]  # as config.json names the architecture
    # what transformers' text configuration takes where config.json is silent, as the hub's LLaVA ports are
    text_defaults: ClassVar[Mapping[str, Mapping[str, int]]] = {}

    name: str
    path: str  # a hub id, a local folder, or pkg://package/folder
    dtype: str
    attention: str
    revision: str | None = (
        None  # of a hub id: branch, tag or commit; null: what the hub's cache holds as main
    )
    device_map: str | None = None  # how accelerate spreads the weights: auto, balanced, ...; null: one device
    head_scores: str | None = None
    system: str | None = None  # system prompt; null: what the chat template says
    template: str | None = None  # Jinja chat template; null: the folder's own
    jpeg: bool = False  # images are re-encoded as JPEG before the processor
    jpeg_quality: int = 75  # of these, from 1 to 100; Pillow's default
    eos: Literal["tokenizer", "generation_config"] = "tokenizer"  # whose end tokens end an answer
    generation_config: bool = False  # the model's own repetition penalty applies
    stop_strings: bool = True  # an answer ends at its task's stop strings
    max_new_tokens: int = 128  # of tasks that name no limit

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"model.dtype={self.dtype}: must be one of {', '.join(DTYPES)}.")
        if self.attention not in ATTENTIONS:
            raise ValueError(f"model.attention={self.attention}: must be one of {', '.join(ATTENTIONS)}.")
        if self.device_map not in (None, *DEVICE_MAPS):
            raise ValueError(
                f"model.device_map={self.device_map}: must be null or one of {', '.join(DEVICE_MAPS)}."
            )
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"model.jpeg_quality={self.jpeg_quality}: must be from 1 to 100.")
        if self.max_new_tokens < 1:
            raise ValueError(f"model.max_new_tokens={self.max_new_tokens}: must be at least 1.")

    def needs(self) -> tuple[Need, ...]:
        """What must be brought before this model can be loaded; the shape is known only where it is empty."""
        if folder_of(self.path, self.revision) is not None:
            return ()
        what = f"weights of {self.path}" + (f" at {self.revision}" if self.revision else "")
        return (Need("weights", what, f"sparsemm prefetch model={self.name}"),)

    @property
    def folder(self) -> Path:
        """The model's folder.

        Raises:
            ValueError: a hub id whose snapshot is not on this machine.
        """
        folder = folder_of(self.path, self.revision)
        if folder is None:
            raise ValueError(
                f"model.path={self.path}: its weights are not on this machine, or not all of them. "
                f"Bring them: sparsemm prefetch model={self.name}"
            )
        return folder

    def check(self) -> None:
        """Raise ValueError where the folder is missing, holds no model of this family, or not all of one."""
        self.shape()
        folder = self.folder
        if not has_weights(folder):
            raise ValueError(
                f"model.path={self.path}: no model.safetensors there, nor an index of several files. "
                "Convert the weights to safetensors."
            )
        if missing := missing_weights(folder):
            raise ValueError(
                f"model.path={self.path}: the weights are incomplete, {len(missing)} files are missing: "
                f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}. Copy the folder again."
            )
        self.generation_settings()

    def config(self) -> dict[str, Any]:
        """The model's config.json, of the right architecture."""
        folder = self.folder
        if not folder.is_dir():
            raise ValueError(
                f"model.path={self.path}: no such folder. Give a folder with config.json and safetensors, "
                "or a hub id (owner/name)."
            )
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"model.path={self.path}: not a model, config.json is missing. "
                "Give a folder saved by save_pretrained."
            )
        config = read_json(self.path, folder, "config.json")
        found = config.get("model_type")
        if found != self.model_type:
            raise ValueError(f"model.path={self.path}: model_type={found}, {self._other(config)}")
        return config

    def _other(self, config: Mapping[str, Any]) -> str:
        found = config.get("model_type")
        if found in ARCHITECTURES:
            return f"expected {self.model_type}. Choose its adapter: model={ARCHITECTURES[found][0]}."
        told = [f"{kind} (model={', '.join(names)})" for kind, names in ARCHITECTURES.items()]
        remote = (
            " Its code comes with its weights (auto_map), and such code is never run."
            if "auto_map" in config
            else ""
        )
        return f"expected {self.model_type}.{remote} There are adapters for {'; '.join(told)}."

    def text_config(self) -> dict[str, Any]:
        """What config.json says of the language model; older hub copies say it at the top level."""
        config = self.config()
        text = config.get("text_config", config)
        if not isinstance(text, Mapping):
            raise ValueError(f"model.path={self.path}: config.json has no text_config. Save the model again.")
        return {**self.text_defaults.get(str(text.get("model_type")), {}), **text}

    def shape(self) -> ModelShape:
        """Layers and heads, read from config.json alone."""
        text = self.text_config()
        try:
            heads = int(text["num_attention_heads"])
            return ModelShape(
                int(text["num_hidden_layers"]),
                heads,
                int(text.get("num_key_value_heads") or heads),
                int(text.get("head_dim") or int(text["hidden_size"]) // heads),
            )
        except KeyError as missing:
            raise ValueError(
                f"model.path={self.path}: config.json has no {missing}. Save the model again."
            ) from None

    def generation_settings(self) -> tuple[float, tuple[int, ...]]:
        """Repetition penalty, and the end tokens of generation_config.json (none: the tokenizer's).

        Raises:
            ValueError: a setting there that is not supported, or no end tokens where they are asked for.
        """
        there = (self.folder / "generation_config.json").is_file()
        settings = read_json(self.path, self.folder, "generation_config.json") if there else {}
        penalty = repetition_penalty(self.path, settings) if self.generation_config else 1.0
        if self.eos == "tokenizer":
            return penalty, ()
        ends = settings.get("eos_token_id")
        if ends is None:
            raise ValueError(
                f"model.eos=generation_config: {self.path} has no eos_token_id in generation_config.json. "
                "Set model.eos=tokenizer."
            )
        return penalty, tuple(int(end) for end in (ends if isinstance(ends, list) else [ends]))

    def content_id(self) -> str:
        """A hash of everything in the folder that can change an answer."""
        return content_id(self.folder)

    @abstractmethod
    def load(self, device: torch.device) -> LoadedModel:
        """Read the weights."""
