"""The sizes of known models, as their config.json says them: speed does not depend on what weights say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sparsemm.methods.base import ModelShape
from sparsemm.models.base import LoadedModel, Prompt


@dataclass(frozen=True)
class Shape:
    """One model's sizes.

    Args:
        source: the hub's name of the model, or what it is.
        family: whose adapter, processor and tokenizer it has; None: a language model alone.
        text: of config.json's text_config.
        vision: of its vision_config.
    """

    source: str
    family: str | None
    text: Mapping[str, Any]
    vision: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reads_images(self) -> bool:
        """Whether it has a vision tower."""
        return self.family is not None

    @property
    def attention(self) -> ModelShape:
        """Layers and heads."""
        heads = self.text["num_attention_heads"]
        return ModelShape(
            self.text["num_hidden_layers"],
            heads,
            self.text["num_key_value_heads"],
            self.text["hidden_size"] // heads,
        )


_CLIP = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
SHAPES = {
    "tiny": Shape(
        "the model that the package ships",
        "tiny",
        {
            "hidden_size": 128,
            "intermediate_size": 384,
            "vocab_size": 112,
            "num_hidden_layers": 6,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
        },
    ),
    "qwen2_0_5b": Shape(
        "Qwen/Qwen2-0.5B-Instruct",
        None,
        {
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "vocab_size": 151_936,
            "tie_word_embeddings": True,
        },
    ),
    "qwen2_vl_7b": Shape(
        "Qwen/Qwen2-VL-7B-Instruct",
        "qwen2_vl",
        {
            "hidden_size": 3584,
            "intermediate_size": 18_944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152_064,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1_000_000.0,
                "mrope_section": [16, 24, 24],
            },
        },
        {
            "depth": 32,
            "embed_dim": 1280,
            "hidden_size": 3584,
            "num_heads": 16,
            "mlp_ratio": 4,
            "patch_size": 14,
        },
    ),
    "llava_next_vicuna_7b": Shape(
        "llava-hf/llava-v1.6-vicuna-7b-hf",
        "llava_next_vicuna",
        {
            "hidden_size": 4096,
            "intermediate_size": 11_008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "vocab_size": 32_064,
            "rms_norm_eps": 1e-5,
        },
        _CLIP,
    ),
    "llava_next_mistral_7b": Shape(
        "llava-hf/llava-v1.6-mistral-7b-hf",
        "llava_next_mistral",
        {
            "hidden_size": 4096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 32_064,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        },
        _CLIP,
    ),
}


class BenchModel(LoadedModel):
    """A random language model; its answers never end."""

    eos_ids = ()

    def __init__(self, name: str, device: torch.device, dtype: torch.dtype, context: int):
        from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

        from sparsemm.engine.attention import use_ragged_attention

        kind = LlamaConfig if name.startswith("llava") else Qwen2Config
        config = kind(**{"tie_word_embeddings": False, **SHAPES[name].text}, max_position_embeddings=context)
        with torch.device(device):
            self.model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
        use_ragged_attention(self.model)
        self.device, self.tokenizer, self.shape = device, None, SHAPES[name].attention

    def _prompt(self, images: Sequence[Any], question: str) -> Prompt:
        raise NotImplementedError("A random model reads random tokens: see `random_tokens`.")

    def random_tokens(self, count: int) -> Tensor:
        """[1, count] token ids, the same every time."""
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(self.model.config.vocab_size, (1, count), generator=generator)
        return ids.to(self.device)

    def decode_positions(self, positions: Tensor) -> Tensor:
        """[R, 1]."""
        return positions[:, None]
