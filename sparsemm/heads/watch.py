"""Read an image aloud and see where every query head looks; only the last query's attention is formed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from sparsemm.cache import RaggedLayer
from sparsemm.engine.greedy import Greedy
from sparsemm.models.base import LoadedModel, Prompt

Head = tuple[int, int]  # layer, query head; both from 0


@dataclass(frozen=True)
class Reading:
    """A greedy answer, and where the heads looked while it was made.

    Args:
        tokens: generated tokens, without the end token.
        looks: [len(tokens), L, Hq] int64 on the CPU: the token of prompt and answer that has the strongest
            attention of the step that predicts each token (the step's last query, over all keys).
        cut: whether the answer was ended by its greatest length.
        attention: [len(tokens), K, T] float32 on the CPU: attention of K chosen heads over the prompt.
    """

    tokens: tuple[int, ...]
    looks: Tensor
    cut: bool
    attention: Tensor


class WatchedLayer(RaggedLayer):
    """The full cache of one layer, which the ragged attention shows its queries."""

    def __init__(self, index: int, kept: Sequence[int] = ()):
        super().__init__(index, None, 0, False, None, backend="torch")
        self.look = torch.empty(0, dtype=torch.long)
        self.kept, self.attention = list(kept), torch.empty(0)
        self.read_keys = self.read_values = torch.empty(0)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values [1, H, q, D]; the keys that come back lead the attention here."""
        if self.seen:
            key_states = torch.cat([self.read_keys, key_states], dim=2)
            value_states = torch.cat([self.read_values, value_states], dim=2)
        self.read_keys, self.read_values = key_states, value_states
        return super().update(key_states[:], value_states)

    def prefill(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scaling: float
    ) -> None:
        """Note where the last query [1, Hq, q, D] of every head looks among all keys [1, H, T, D]."""
        self.observed, self.seen = True, keys.shape[2]
        grouped = queries[0, :, -1].float().view(keys.shape[1], -1, keys.shape[3])  # [H, G, D]
        logits = torch.matmul(grouped, keys[0].float().transpose(1, 2)) * scaling
        self.look = logits.flatten(0, 1).argmax(-1)
        if self.kept:
            self.attention = logits.flatten(0, 1)[self.kept].softmax(-1)


class WatchedCache(Cache):
    """A full cache of one prompt that knows where the last step's heads looked.

    Args:
        layers: of the model.
        kept: (layer, query head) of heads whose whole attention is kept.
    """

    def __init__(self, layers: int, kept: Sequence[Head] = ()):
        super().__init__(
            layers=[
                WatchedLayer(index, [head for layer, head in kept if layer == index])
                for index in range(layers)
            ]
        )
        self.layers: list[WatchedLayer]
        self.kept = kept

    def looks(self) -> Tensor:
        """[L, Hq] int64: for every query head the token with its strongest attention."""
        device = self.layers[0].look.device
        return torch.stack([layer.look.to(device) for layer in self.layers])

    def attention(self, tokens: int) -> Tensor:
        """[K, tokens] float32 on the CPU: attention of the kept heads over the first tokens."""
        rows = [
            self.layers[layer].attention[self.layers[layer].kept.index(head), :tokens].cpu()
            for layer, head in self.kept
        ]
        return torch.stack(rows) if rows else torch.empty(0, tokens)


@torch.inference_mode()
def read(loaded: LoadedModel, prompt: Prompt, max_new_tokens: int, kept: Sequence[Head] = ()) -> Reading:
    """Answer a prompt greedily, as the model's own settings say, and watch its heads.

    Args:
        loaded: the model.
        prompt: what it is asked.
        max_new_tokens: greatest length of the answer.
        kept: heads whose attention over the prompt is kept for every token.
    """
    room = max_new_tokens if loaded.context is None else min(max_new_tokens, loaded.context - prompt.tokens)
    cache, greedy = WatchedCache(loaded.shape.layers, kept), Greedy(loaded, ())
    inputs: dict[str, Tensor] = prompt.inputs
    seen, tokens, looks, attention, ended = None, [], [], [], False
    for step in range(room):
        output = loaded.model(
            **inputs, past_key_values=cache, use_cache=True, **({} if step else {"logits_to_keep": 1})
        )
        logits = output.logits[:, -1]
        seen = greedy.seen(prompt.inputs["input_ids"], logits) if step == 0 else seen
        token = greedy.choose(logits, seen)
        if ended := int(token) in loaded.eos_ids:
            break
        looks.append(cache.looks())
        attention.append(cache.attention(prompt.tokens))
        tokens.append(int(token))
        position = torch.tensor([prompt.next_position + step], device=loaded.device)
        inputs = {
            "input_ids": token[:, None].to(loaded.device),
            "position_ids": loaded.decode_positions(position),
        }
    shape = (0, loaded.shape.layers, loaded.shape.query_heads)
    watched = torch.stack(looks).cpu() if looks else torch.empty(shape, dtype=torch.long)
    over_prompt = torch.stack(attention) if attention else torch.empty(0, len(kept), prompt.tokens)
    return Reading(tuple(tokens), watched, not ended, over_prompt)
