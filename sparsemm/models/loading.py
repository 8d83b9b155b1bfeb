"""What all families share once they are in memory: weights, tokenizer, end tokens, limits, chat prompts."""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from sparsemm.models.base import Box, LoadedModel, ModelAdapter, Prompt
from sparsemm.models.folder import read_json

if TYPE_CHECKING:
    from torch import Tensor


class TransformersModel(LoadedModel):
    """A model of transformers, loaded from a folder. Subclasses encode prompts and know the image tokens.

    Args:
        adapter: its configuration.
        device: where to; with a device map, accelerate decides.
        model_class: name of the class in transformers.
        image_token: what an image token is called.

    Raises:
        ValueError: weights that are incomplete or do not fit; an attention or a device map that cannot run.
    """

    def __init__(self, adapter: ModelAdapter, device: torch.device, model_class: str, image_token: str):
        # planning reads shapes only: transformers, seconds to import, is for workers
        from transformers import AutoTokenizer

        from sparsemm.engine.attention import use_ragged_attention

        self.adapter, self.shape = adapter, adapter.shape()
        model = self._weights(adapter, device, model_class)
        self.model = use_ragged_attention(model.eval(), adapter.attention)
        self.device = model.get_input_embeddings().weight.device
        self.tokenizer = AutoTokenizer.from_pretrained(str(adapter.folder), local_files_only=True)
        self.image_token = image_token
        self.image_id = int(self.tokenizer.convert_tokens_to_ids(image_token))
        self.repetition_penalty, ends = adapter.generation_settings()
        self.eos_ids = ends or (int(self.tokenizer.eos_token_id),)
        text = model.config.get_text_config()
        self.context = int(text.max_position_embeddings)
        sliding = "sliding_attention" in (getattr(text, "layer_types", None) or ["sliding_attention"])
        window = getattr(text, "sliding_window", None)
        self.sliding_window = int(window) if window and sliding else None

    def _weights(self, adapter: ModelAdapter, device: torch.device, model_class: str) -> Any:
        """The model, read from the adapter's folder."""
        return _read_weights(adapter, device, model_class)

    def _chat(self, images: int, question: str, template: Any) -> str:
        """The text of a prompt by the model's chat template: images first, then the question.

        Args:
            images: how many.
            question: what is asked.
            template: the tokenizer or processor whose template it is.
        """
        if self.image_token in question:
            raise ValueError(
                f"the question holds {self.image_token}, which stands for an image. Take it out."
            )
        content = [*[{"type": "image"}] * images, {"type": "text", "text": question}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if self.adapter.system is not None:
            system = {"type": "text", "text": self.adapter.system}
            messages.insert(0, {"role": "system", "content": [system]})
        form = self.adapter.template or template.chat_template or self._processor_template()
        if form is None:
            raise ValueError(
                f"model.path={self.adapter.path}: no chat template there. Give one: model.template=..."
            )
        return str(
            template.apply_chat_template(
                messages, chat_template=form, tokenize=False, add_generation_prompt=True
            )
        )

    def _processor_template(self) -> str | None:
        """The template of a joint processor that is not built here."""
        file = self.adapter.folder / "chat_template.json"
        if not file.is_file():
            return None
        return read_json(self.adapter.path, self.adapter.folder, file.name).get("chat_template")

    def _as_sent(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        """The images, re-encoded where the adapter says so."""
        if not self.adapter.jpeg:
            return list(images)
        return [as_jpeg(image, self.adapter.jpeg_quality) for image in images]

    def _finish(self, inputs: dict[str, Tensor], next_position: int, images: list[Image.Image]) -> Prompt:
        pixels = inputs.get("pixel_values")
        if pixels is not None:
            inputs["pixel_values"] = pixels.to(self.model.dtype)
        return Prompt(
            {name: tensor.to(self.device) for name, tensor in inputs.items()},
            inputs["input_ids"].shape[1],
            next_position,
            tuple(image.size for image in images),
        )

    def box_tokens(self, prompt: Prompt, box: Box, image: int = 0) -> Tensor:
        """[k] int64: where in the prompt the image tokens stand that see any part of a box."""
        if not 0 <= image < len(prompt.image_sizes):
            raise ValueError(f"image={image}: the prompt has {len(prompt.image_sizes)} images, from 0.")
        width, height = prompt.image_sizes[image]
        left, top, right, bottom = box
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise ValueError(
                f"box={box}: must be left < right and top < bottom within {width} x {height} pixels."
            )
        places = (prompt.inputs["input_ids"][0] == self.image_id).nonzero()[:, 0].cpu()
        return places[self._image_tokens(prompt, box, image)]

    @abstractmethod
    def _image_tokens(self, prompt: Prompt, box: Box, image: int) -> Tensor:
        """[k] int64: which of the prompt's image tokens (counted over all its images) see a box."""


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """An RGB image after JPEG compression."""
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=quality)
    return Image.open(io.BytesIO(stream.getvalue())).convert("RGB")


def touched(low: float, high: float, size: int, resized: int, cell: int, offset: int = 0) -> range:
    """Cells of a grid along one axis that an interval of the image touches.

    Args:
        low: where the interval begins, in pixels of the image.
        high: where it ends (outside).
        size: pixels of the image along this axis.
        resized: pixels after resizing.
        cell: pixels of a cell.
        offset: cells begin so many pixels before the resized image.
    """
    first = (low * resized / size + offset) // cell
    last = -(-(high * resized / size + offset) // cell)
    return range(int(first), int(last))


def _read_weights(adapter: ModelAdapter, device: torch.device, model_class: str) -> Any:
    import transformers
    from safetensors import SafetensorError
    from transformers.utils.logging import disable_progress_bar

    _check_device_map(adapter, device)
    disable_progress_bar()  # the worker shows its own
    try:
        model, found = getattr(transformers, model_class).from_pretrained(
            str(adapter.folder),
            dtype=getattr(torch, adapter.dtype),
            device_map=adapter.device_map,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except ValueError as error:
        if adapter.device_map and "offload" in str(error):  # to disk, for which transformers wants a folder
            raise _offloaded(adapter, "some") from error
        raise
    except (SafetensorError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = (
            "have other shapes than config.json says" if "size" in str(error) else f"are corrupt ({error})"
        )
        raise ValueError(
            f"model.path={adapter.path}: the weights {reason}. Copy the folder again."
        ) from error
    wrong = sorted(map(str, {*found["missing_keys"], *found["mismatched_keys"]}))
    if wrong:
        raise ValueError(
            f"model.path={adapter.path}: the weights are incomplete, {len(wrong)} tensors are missing: "
            f"{', '.join(wrong[:3])}{', ...' if len(wrong) > 3 else ''}. Copy the folder again."
        )
    if adapter.device_map is None:
        return model.to(device)
    refuse_offloaded(adapter, model)
    return model


def _check_device_map(adapter: ModelAdapter, device: torch.device) -> None:
    if adapter.device_map and device.type == "cpu":
        raise ValueError(
            f"model.device_map={adapter.device_map}: spreads the weights over GPUs, but answers are to be "
            "computed on the CPU. Set model.device_map=null, or engine.device=cuda."
        )
    if adapter.device_map and find_spec("accelerate") is None:
        raise ValueError(
            f"model.device_map={adapter.device_map}: needs accelerate. Run: pip install accelerate, "
            "or set model.device_map=null."
        )


def refuse_offloaded(adapter: ModelAdapter, model: Any) -> None:
    """Raise ValueError where accelerate left weights outside the GPUs: every token would wait for them.

    Args:
        adapter: the model's configuration.
        model: as loaded with a device map. What it offloads is on the CPU, or on no device until it is used.
    """
    weights = list(model.parameters())
    outside = sum(weight.nbytes for weight in weights if weight.device.type in ("cpu", "meta"))
    if outside:
        whole = sum(weight.nbytes for weight in weights)
        raise _offloaded(adapter, f"{outside / 1e9:.3g} of {whole / 1e9:.3g} GB")


def _offloaded(adapter: ModelAdapter, much: str) -> ValueError:
    return ValueError(
        f"model.device_map={adapter.device_map}: {much} of the weights did not fit into the memory that the "
        "GPUs have free, and would be fetched from the CPU's or the disk for every token. Free that memory, "
        f"take more or larger GPUs, or choose a smaller model.dtype (now {adapter.dtype})."
    )
