"""Language models of known shapes with random weights: speed does not depend on what they say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from sparsemm.engine.attention import use_ragged_attention
from sparsemm.methods.base import ModelShape
from sparsemm.models.base import LoadedModel, Prompt


@dataclass(frozen=True)
class TextShape:
    """A decoder's sizes, as in the config.json of the model named."""

    source: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    biased: bool  # Qwen2's queries, keys and values have biases


SHAPES = {
    "tiny": TextShape("a small test shape", 256, 4, 8, 4, 512, 1024, True),
    "qwen2_0_5b": TextShape("Qwen/Qwen2-0.5B-Instruct", 896, 24, 14, 2, 4864, 151_936, True),
    "qwen2_vl_7b": TextShape("Qwen/Qwen2-VL-7B-Instruct", 3584, 28, 28, 4, 18_944, 152_064, True),
    "llava_next_vicuna_7b": TextShape(
        "llava-hf/llava-v1.6-vicuna-7b-hf", 4096, 32, 32, 32, 11_008, 32_064, False
    ),
    "llava_next_mistral_7b": TextShape(
        "llava-hf/llava-v1.6-mistral-7b-hf", 4096, 32, 32, 8, 14_336, 32_064, False
    ),
}


class BenchModel(LoadedModel):
    """A random language model; its answers never end."""

    eos_ids = ()

    def __init__(self, name: str, device: torch.device, dtype: torch.dtype, context: int):
        shape = SHAPES[name]
        kind = Qwen2Config if shape.biased else LlamaConfig
        config = kind(
            hidden_size=shape.hidden,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            intermediate_size=shape.intermediate,
            vocab_size=shape.vocabulary,
            max_position_embeddings=context,
            tie_word_embeddings=False,
        )
        with torch.device(device):
            self.model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
        use_ragged_attention(self.model)
        self.device, self.tokenizer = device, None
        self.shape = ModelShape(shape.layers, shape.heads, shape.kv_heads, shape.hidden // shape.heads)

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
