"""The attention function that transformers calls: prompts are read in full, decoding reads the ragged cache.

No model class is patched: the function is registered with transformers, and the keys that
`RaggedLayer.update` returns lead it back to their layer. Without a RaggedCache it is the ordinary attention.
"""

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sparsemm.models.base import ATTENTIONS


def use_ragged_attention(model: PreTrainedModel, prefill: str = "sdpa") -> PreTrainedModel:
    """Let a model's text layers read RaggedCache; `prefill` is the attention that reads prompts.

    Raises:
        ValueError: an attention that is not one of ATTENTIONS.
    """
    if prefill not in ATTENTIONS:
        raise ValueError(f"model.attention={prefill}: must be one of {', '.join(ATTENTIONS)}.")
    ours = f"ragged_{prefill}"
    model.set_attn_implementation({"text_config": ours} if hasattr(model.config, "text_config") else ours)
    return model


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
        layer = getattr(key, "ragged_layer", None)
        factor = query.shape[-1] ** -0.5 if scaling is None else scaling
        if layer is not None and layer.arena is not None:
            return layer.decode(query, key, value, attention_mask, factor), None
        full = ALL_ATTENTION_FUNCTIONS[backend]
        output, _ = full(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        if layer is not None:
            layer.prefill(query, key, value, attention_mask, factor)
        return output, None

    return ragged_attention


for _backend in ATTENTIONS:
    AttentionInterface.register(f"ragged_{_backend}", _ragged(_backend))
    AttentionMaskInterface.register(f"ragged_{_backend}", ALL_MASK_ATTENTION_FUNCTIONS[_backend])
