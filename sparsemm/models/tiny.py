"""The tiny model's shape: Qwen2-VL's own architecture, 1.6 million parameters, a character tokenizer."""

import string
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

PATCH_PIXELS = 8
MERGE = 2  # an image token covers 16 x 16 pixels
SPECIALS = ("<|pad|>", "<|unk|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per printable ASCII character."""
    characters = string.digits + string.ascii_letters + string.punctuation + " \n"
    vocabulary = {token: index for index, token in enumerate((*SPECIALS, *characters))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<|unk|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        unk_token="<|unk|>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(SPECIALS[2:5]),
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_image_processor(pixels: int) -> Qwen2VLImageProcessorPil:
    """Pixels as ink (white is 0); pages up to `pixels` are never resized."""
    return Qwen2VLImageProcessorPil(
        patch_size=PATCH_PIXELS,
        merge_size=MERGE,
        temporal_patch_size=1,
        image_mean=[1.0] * 3,
        image_std=[0.5] * 3,
        size={"shortest_edge": (PATCH_PIXELS * MERGE) ** 2, "longest_edge": pixels},
    )


def build_config(tokenizer: PreTrainedTokenizerFast, layers: int = 6) -> Qwen2VLConfig:
    """6 layers, 8 query heads, 4 KV heads of dimension 16; vision tower of 2 layers."""
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIALS}
    return Qwen2VLConfig(
        text_config={
            "vocab_size": (len(tokenizer) + 15) // 16 * 16,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": layers,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|pad|>"],
            "tie_word_embeddings": False,
        },
        vision_config={
            "depth": 2,
            "embed_dim": 96,
            "hidden_size": 128,
            "num_heads": 4,
            "mlp_ratio": 3,
            "patch_size": PATCH_PIXELS,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 1,
        },
        image_token_id=ids["<|image_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )


def save(
    model: Qwen2VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, pixels: int, folder: Path
) -> None:
    """Write a folder that `from_pretrained` loads: safetensors, tokenizer and image processor."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    build_image_processor(pixels).save_pretrained(folder)
