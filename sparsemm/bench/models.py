"""The models that are measured: random weights of a known shape, made where they are needed, or real ones."""

import tempfile
from pathlib import Path
from typing import Any

import torch

from sparsemm.api import compose_settings
from sparsemm.bench.settings import RANDOM
from sparsemm.bench.shapes import SHAPES, BenchModel
from sparsemm.config import build_model
from sparsemm.methods.base import ModelShape
from sparsemm.models.base import LoadedModel, ModelAdapter
from sparsemm.models.llava_next import LlavaNext, LoadedLlavaNext
from sparsemm.models.qwen2_vl import LoadedQwen2VL, Qwen2VL

TINY_PIXELS = 2**20  # of the tiny model's largest page


class _RandomWeights:
    """The classes of transformers at the folder's sizes, initialised on the device and in the dtype."""

    def _weights(self, adapter: ModelAdapter, device: torch.device, model_class: str) -> Any:
        import transformers

        config = transformers.AutoConfig.from_pretrained(str(adapter.folder), local_files_only=True)
        kind, dtype = getattr(transformers, model_class), getattr(torch, adapter.dtype)
        with torch.device("meta"):
            needed = sum(one.nbytes for one in kind._from_config(config, dtype=dtype).parameters())
        if device.type == "cpu" and needed > (available := _available_bytes()):
            raise torch.OutOfMemoryError(
                f"the weights take {needed / 1e9:.3g} GB, and {available / 1e9:.3g} GB are free."
            )
        with torch.device(device):
            return kind._from_config(config, dtype=dtype)


class RandomLlavaNext(_RandomWeights, LoadedLlavaNext):
    """LLaVA-NeXT with random weights."""


class RandomQwen2VL(_RandomWeights, LoadedQwen2VL):
    """Qwen2-VL with random weights."""


def _available_bytes() -> float:
    """Of this machine's memory: a process that takes more is killed, and raises nothing."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return float("inf")
    return 1024 * float(next(line.split()[1] for line in lines if line.startswith("MemAvailable")))


def adapter_of(shape: str, weights: str, dtype: torch.dtype) -> ModelAdapter:
    """The adapter of real weights; nothing is read yet but what says that they are there.

    Raises:
        ValueError: no such model here, or one of another shape.
    """
    name = str(dtype).removeprefix("torch.")
    settings = compose_settings(f"model={shape}", f"model.path='{weights}'", f"model.dtype={name}")
    adapter: ModelAdapter = build_model(settings)
    adapter.check()
    found, wanted = adapter.shape(), SHAPES[shape].attention
    if found != wanted:
        raise ValueError(
            f"weights={weights}: {_words(found)}, but shape={shape} has {_words(wanted)}. "
            "Set shape to the model's own."
        )
    return adapter


def _words(shape: ModelShape) -> str:
    heads = f"{shape.query_heads} query and {shape.kv_heads} KV heads of {shape.head_dim}"
    return f"{shape.layers} layers, {heads}"


def make_model(
    shape: str, weights: str, device: torch.device, dtype: torch.dtype, context: int
) -> LoadedModel:
    """A model in memory whose answers never end.

    Args:
        shape: a name in SHAPES.
        weights: `random`, or where real ones are.
        device: where to.
        dtype: of weights and cache.
        context: tokens of the longest prompt with its answer. Speed is measured beyond what a model was
            trained for, as the paper does with Vicuna.

    Raises:
        ValueError: real weights that cannot be loaded.
        torch.OutOfMemoryError: the device is too small.
    """
    with torch.inference_mode():
        if weights != RANDOM:
            loaded = adapter_of(shape, weights, dtype).load(device)
        elif SHAPES[shape].reads_images:
            loaded = _random(shape, device, dtype, context)
        else:
            loaded = BenchModel(shape, device, dtype, context)
    loaded.eos_ids, loaded.context, loaded.repetition_penalty = (), None, 1.0
    return loaded


def _random(shape: str, device: torch.device, dtype: torch.dtype, context: int) -> LoadedModel:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_folder(shape, folder, context)
        family, numbers = SHAPES[shape].family, str(dtype).removeprefix("torch.")
        given: dict[str, Any] = {"name": shape, "path": name, "dtype": numbers, "attention": "sdpa"}
        if str(family).startswith("llava"):
            return RandomLlavaNext(LlavaNext(**given), device)
        return RandomQwen2VL(Qwen2VL(**given), device)


def save_folder(shape: str, folder: Path, context: int) -> Any:
    """Write configuration, processor and tokenizer of a shape, and return the configuration.

    The tokenizer is a small one: which ids a prompt holds changes no time.
    """
    from sparsemm.models.small import save_settings
    from sparsemm.models.tiny import build_config, build_image_processor, build_tokenizer

    found, longer = SHAPES[shape], {"max_position_embeddings": context}
    if found.family == "tiny":
        tokenizer = build_tokenizer()
        config = build_config(tokenizer)
        config.text_config.max_position_embeddings = context
        tokenizer.save_pretrained(folder)
        build_image_processor(TINY_PIXELS).save_pretrained(folder)
        config.save_pretrained(folder)
        return config
    return save_settings(str(found.family), folder, {**found.text, **longer}, found.vision)


def weights_bytes(loaded: LoadedModel) -> int:
    """Bytes of a model's parameters and buffers."""
    model = loaded.model
    return sum(one.nbytes for group in (model.parameters(), model.buffers()) for one in group)
