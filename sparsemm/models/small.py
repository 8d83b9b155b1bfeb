"""Small random models of the real families: for tests and smoke runs, where no weights can be had.

Architecture classes, processors, special tokens, chat templates and generation settings are the real ones;
only sizes are scaled down. What they answer means nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    GenerationConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)
from transformers.utils.logging import disable_progress_bar

from sparsemm.models.families import FAMILIES as FAMILIES

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
CLIP = {  # LLaVA: tiles of 4 x 4 patches
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
    "projection_dim": 32,
}
PINPOINTS = [[1, 2], [2, 1], [2, 2], [3, 1], [1, 3]]  # as the real ones, in tiles
QWEN_PATCH_PIXELS = 10  # an image token covers 20 x 20 pixels
SPOKEN = (
    "A chat between a curious human and an artificial intelligence assistant. You are a helpful assistant. "
    "What is the number of the word in the image? Answer the question using a single word or phrase. "
    "Provide all the OCR results of this image. Answer with the option's letter from the given choices."
)

LLAVA_TOKENS = ("<unk>", "<s>", "</s>", "<image>", "<pad>")
QWEN_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
MODELS = {
    "llava_next_vicuna": LlavaNextForConditionalGeneration,
    "llava_next_mistral": LlavaNextForConditionalGeneration,
    "qwen2_vl": Qwen2VLForConditionalGeneration,
    "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
}
_IMAGES = (
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
)
_TEXTS = "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
VICUNA_TEMPLATE = (  # a system text comes first and without a role, if one is given
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    f"{_IMAGES}{_TEXTS}{{{{ content['text'] + ' ' }}}}{{% endfor %}}{{% endfor %}}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
MISTRAL_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ '<<SYS>>\n' + message['content'][0]['text'] + '\n<</SYS>>\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ '[INST] ' }}"
    f"{_IMAGES}{_TEXTS}{{{{ content['text'] }}}}{{% endfor %}}{{{{ ' [/INST]' }}}}"
    "{% else %}{{ ' ' + message['content'][0]['text'] + '</s> ' }}{% endif %}{% endfor %}"
)
QWEN_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_small(family: str, folder: Path, seed: int = 0) -> None:
    """Write a small random model that the family's adapter loads: weights, tokenizer, processor, settings.

    Args:
        family: one of FAMILIES.
        folder: where to; made if it is not there.
        seed: of the weights; the same seed writes the same files.

    Raises:
        ValueError: a family that is not known.
    """
    if family not in FAMILIES:
        raise ValueError(f"family={family}: must be one of {', '.join(FAMILIES)}.")
    disable_progress_bar()  # one file is written
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = MODELS[family](save_settings(family, folder))
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() >= 2:  # large enough that attention is peaked
                    weight.normal_(std=2 * weight[0].numel() ** -0.5)
    model.generation_config = _generation(family, model.config.text_config)
    model.save_pretrained(folder)


def save_settings(
    family: str, folder: Path, text: Mapping[str, Any] | None = None, vision: Mapping[str, Any] | None = None
) -> PretrainedConfig:
    """Write a family's folder without weights, and return its configuration.

    Args:
        family: one of FAMILIES.
        folder: where to; made if it is not there.
        text: sizes of the language model in place of the small ones, as in config.json.
        vision: sizes of the vision tower likewise.
    """
    build = _llava if family.startswith("llava") else _qwen
    config = build(family, folder, text or {}, vision or {})
    config.save_pretrained(folder)
    return config


def _llava(family: str, folder: Path, text: Mapping[str, Any], vision: Mapping[str, Any]) -> PretrainedConfig:
    tokenizer = _tokenizer(LLAVA_TOKENS, bos="<s>", eos="</s>", pad="<pad>", extra={"image_token": "<image>"})
    mistral = family.endswith("mistral")
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in LLAVA_TOKENS}
    ends = {"bos_token_id": ids["<s>"], "eos_token_id": ids["</s>"], "pad_token_id": ids["<pad>"]}
    own = {**TEXT, **ends, "vocab_size": len(tokenizer)}
    if mistral:
        own |= {"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": None}
    else:
        own |= {"model_type": "llama", "num_key_value_heads": TEXT["num_attention_heads"]}
    tower = {**CLIP, **vision}
    tile, patch = int(tower["image_size"]), int(tower["patch_size"])
    pinpoints = [[tile * side for side in sides] for sides in PINPOINTS]
    LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": tile},
            crop_size={"height": tile, "width": tile},
            image_grid_pinpoints=pinpoints,
        ),
        tokenizer=tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=MISTRAL_TEMPLATE if mistral else VICUNA_TEMPLATE,
    ).save_pretrained(folder)
    return LlavaNextConfig(
        text_config={**own, **text},
        vision_config=tower,
        image_token_index=ids["<image>"],
        image_grid_pinpoints=pinpoints,
        image_seq_length=(tile // patch) ** 2,
    )


def _qwen(family: str, folder: Path, text: Mapping[str, Any], vision: Mapping[str, Any]) -> PretrainedConfig:
    tokenizer = _tokenizer(QWEN_TOKENS, bos=None, eos="<|im_end|>", pad="<|endoftext|>", extra={})
    tokenizer.chat_template = QWEN_TEMPLATE
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in QWEN_TOKENS}
    own = {
        **TEXT,
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [2, 3, 3]},
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
    }
    tower: dict[str, Any] = {"depth": 2, "num_heads": 2, "patch_size": QWEN_PATCH_PIXELS}
    if family == "qwen2_vl":
        tower |= {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
    else:
        tower |= {"hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 64}
        tower |= {"window_size": 4 * QWEN_PATCH_PIXELS, "fullatt_block_indexes": [1]}
    tower |= vision
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(
        patch_size=tower["patch_size"], size={"shortest_edge": 3136, "longest_edge": 12845056}
    ).save_pretrained(folder)
    kind = Qwen2VLConfig if family == "qwen2_vl" else Qwen2_5_VLConfig
    return kind(
        text_config={**own, **text},
        vision_config=tower,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )


def _generation(family: str, text: Any) -> GenerationConfig:
    if family.startswith("llava"):
        ends = {key: getattr(text, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        return GenerationConfig(**ends)
    return GenerationConfig(
        bos_token_id=text.bos_token_id,
        pad_token_id=text.bos_token_id,
        eos_token_id=[text.eos_token_id, text.bos_token_id],
        do_sample=True,
        temperature=0.1,
        top_k=1,
        top_p=0.001,
        repetition_penalty=1.05,
    )


def _tokenizer(
    specials: tuple[str, ...], bos: str | None, eos: str, pad: str, extra: Mapping[str, str]
) -> PreTrainedTokenizerFast:
    """Byte-level BPE: every text round-trips; words of SPOKEN are a few tokens each."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=448,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([SPOKEN], trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        extra_special_tokens=dict(extra) or [name for name in specials if name not in (eos, pad)],
    )
