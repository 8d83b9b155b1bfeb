"""The attention function that transformers calls: prompts are read in full, decoding reads the ragged cache.

No model class is patched: the function is registered with transformers, and the keys that
`RaggedLayer.update` returns lead it back to their layer. Without a RaggedCache it is the ordinary attention.
"""

import sys
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sparsemm.engine.compiled import append_and_attend
from sparsemm.engine.flash import check_flash_attention, flash_attention, refuse_padding
from sparsemm.models.base import ATTENTIONS

# Names without "flash": transformers takes every name with it for one of its own.
NAMES = {"sdpa": "ragged_sdpa", "eager": "ragged_eager", "flash_attention_2": "ragged_fa2"}


def use_ragged_attention(model: PreTrainedModel, prefill: str = "sdpa") -> PreTrainedModel:
    """Let a model's text layers read RaggedCache; `prefill` is the attention that reads prompts.

    The vision tower keeps what it was loaded with; with flash_attention_2 it gets transformers' own, as the
    published runs had.

    Raises:
        ValueError: an attention that is not one of ATTENTIONS, or that cannot run here.
    """
    if prefill not in ATTENTIONS:
        raise ValueError(f"model.attention={prefill}: must be one of {', '.join(ATTENTIONS)}.")
    parts = {"text_config": NAMES[prefill]}
    if prefill == "flash_attention_2":
        check_flash_attention(next(model.parameters()).device, model.dtype)
        if hasattr(model.config, "vision_config"):
            parts["vision_config"] = prefill
    model.set_attn_implementation(parts if hasattr(model.config, "text_config") else NAMES[prefill])
    return model


def refuse_sliding(tokens: int, window: int | None, of: str = "prompt and answer take up to") -> None:
    """Raise ValueError where `tokens` do not fit into a layer's sliding window.

    Args:
        tokens: how many.
        window: how many a token may look back on; None: all.
        of: what takes them, for the message.
    """
    if window is not None and tokens > window:
        raise ValueError(
            f"sliding_window={window}: layers of this model see no more tokens than that, but {of} {tokens}, "
            "and a sliding window is not compressed. Use smaller or fewer images, or a shorter answer."
        )


def _mask_of(backend: str) -> Any:
    def mask(**settings: Any) -> Tensor | None:
        """As transformers makes it, but none for one token that sees everything: all zeros would be added."""
        if settings["q_length"] == 1:
            alone = settings["kv_length"] == 1 and settings.get("attention_mask") is None
            if alone or (backend == "eager" and ALL_MASK_ATTENTION_FUNCTIONS["sdpa"](**settings) is None):
                return None
        made: Tensor | None = ALL_MASK_ATTENTION_FUNCTIONS[backend](**settings)
        return made

    return mask


def _full(
    backend: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    settings: dict[str, Any],
) -> Tensor:
    """The ordinary attention of a backend -> [B, q, Hq, D]."""
    if backend == "flash_attention_2":
        return flash_attention(query, key, value, scaling, settings.get("sliding_window"))
    # eager attention is each modeling file's own
    modeling = sys.modules[type(module).__module__]
    full = modeling.eager_attention_forward if backend == "eager" else ALL_ATTENTION_FUNCTIONS[backend]
    output: Tensor = full(module, query, key, value, mask, scaling=scaling, **settings)[0]
    return output


def _ragged(backend: str) -> Any:
    def ragged_attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """Query [R, Hq, q, D], key and value [R, H, q, D] -> [R, q, Hq, D]."""
        factor = query.shape[-1] ** -0.5 if scaling is None else scaling
        if kwargs.get("ragged_step"):  # one token per row, in a step that is being compiled
            return append_and_attend(query, key, value, module.layer_idx, factor), None
        if backend == "flash_attention_2":
            refuse_padding(attention_mask)
        layer = getattr(key, "ragged_layer", None)
        if layer is None:
            return _full(backend, module, query, key, value, attention_mask, factor, kwargs), None
        refuse_sliding(layer.seen + query.shape[2], kwargs.get("sliding_window"))
        query = layer.masked_queries(query)
        if layer.arena is None:
            output = _full(backend, module, query, key, value, attention_mask, factor, kwargs)
            layer.prefill(query, key, value, attention_mask, factor)
        else:
            output = layer.decode(query, key, value, attention_mask, factor)
        return layer.masked_outputs(output), None

    return ragged_attention


for _backend, _name in NAMES.items():
    AttentionInterface.register(_name, _ragged(_backend))
    AttentionMaskInterface.register(_name, _mask_of(_backend))
