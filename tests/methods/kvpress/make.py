"""Write what kvpress 0.5.5 keeps of a small random Llama's prompts, for tests/methods/test_kvpress.py.

kvpress needs older transformers and pandas than SparseMM, so it runs in an environment of its own:

    python -m venv kvpress-env
    kvpress-env/bin/pip install torch==2.13.0 kvpress==0.5.5 "transformers<5.3" "pandas<3"
    kvpress-env/bin/python tests/methods/kvpress/make.py tests/methods/kvpress

Every file holds queries [L, Hq, W, D] (the window, after RoPE), keys [L, H, T, D] and, per press, the entries
that it keeps, [L, H, T] as packed bits. A press takes a share of T: the middle between `budget` and one
more, which it rounds down. Where attention is peaked nothing is pooled: the neighbours of a peak would be
ties but for rounding.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from kvpress import AdaKVPress, PyramidKVPress, SnapKVPress, StreamingLLMPress
from torch import Tensor
from transformers import AttentionInterface, DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

WINDOW, SINKS, BETA, SAFEGUARD = 4, 4, 20, 0.2
CASES = {  # prompt tokens, budget, query heads, KV heads, pool kernel, how peaked attention is
    "grouped": (150, 40, 4, 2, 5, 2.0),
    "pyramid": (160, 82, 3, 3, 5, 2.0),  # kvpress makes a pyramid only where budget // beta covers the window
    "peaked": (120, 30, 4, 4, 1, 60.0),
}
queries: dict[int, Tensor] = {}


def capture(module: torch.nn.Module, query: Tensor, *args: object, **kwargs: object) -> object:
    """Ordinary attention that leaves the window's queries behind."""
    queries[module.layer_idx] = query[0, :, -WINDOW:].clone()
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, *args, **kwargs)


def model_of(query_heads: int, kv_heads: int, peaked: float) -> LlamaForCausalLM:
    """Four layers with random weights; `peaked` scales the query projections."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=8 * query_heads, intermediate_size=32, num_hidden_layers=4, head_dim=8,
        num_attention_heads=query_heads, num_key_value_heads=kv_heads,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.q_proj.weight, std=peaked * (8 * query_heads) ** -0.5)
        torch.nn.init.normal_(layer.self_attn.k_proj.weight, std=(8 * query_heads) ** -0.5)
    AttentionInterface.register("capture", capture)
    model.set_attn_implementation("capture")
    return model


def kept(model: LlamaForCausalLM, press: object, ids: Tensor, full: Tensor) -> Tensor:
    """[L, H, T] bool: the entries that stay, told by their keys or by the mask that AdaKV leaves."""
    layers, heads, tokens, _ = full.shape
    cache = DynamicCache()
    for layer in model.model.layers:
        layer.self_attn.masked_key_indices = None
    with torch.no_grad(), press(model):
        model.model(ids, past_key_values=cache)
    result = torch.ones(layers, heads, tokens, dtype=torch.bool)
    for index, layer in enumerate(model.model.layers):
        masked = layer.self_attn.masked_key_indices
        if masked is not None:
            result[index, masked[1], masked[2]] = False
            continue
        same = (full[index][:, :, None] == cache.layers[index].keys[0][:, None]).all(-1)  # [H, T, kept]
        result[index] = same.any(-1)
        assert bool((same.sum(1) == 1).all())  # every kept key is one token of the prompt
    return result


def main(folder: Path) -> None:
    """Run every press on every case."""
    for name, (tokens, budget, query_heads, kv_heads, pool, peaked) in CASES.items():
        model = model_of(query_heads, kv_heads, peaked)
        ids = torch.randint(0, 64, (1, tokens), generator=torch.Generator().manual_seed(1))
        cache = DynamicCache()
        with torch.no_grad():
            model.model(ids, past_key_values=cache)
        full = torch.stack([layer.keys[0] for layer in cache.layers])
        window = torch.stack([queries[layer] for layer in range(4)])
        common = {"compression_ratio": 1 - (budget + 0.5) / tokens}
        snap = {**common, "window_size": WINDOW, "kernel_size": pool}
        presses: dict[str, Callable[[], object]] = {
            "snapkv": lambda snap=snap: SnapKVPress(**snap),
            "pyramidkv": lambda snap=snap: PyramidKVPress(**snap, beta=BETA),
            "adakv": lambda snap=snap: AdaKVPress(SnapKVPress(**snap), alpha_safeguard=SAFEGUARD),
            "adakv_no_safeguard": lambda snap=snap: AdaKVPress(SnapKVPress(**snap), alpha_safeguard=0.0),
            "streamingllm": lambda common=common: StreamingLLMPress(**common, n_sink=SINKS),
        }
        entries = {
            f"keep_{press}": np.packbits(kept(model, make(), ids, full).numpy(), axis=-1)
            for press, make in presses.items()
        }
        np.savez_compressed(
            folder / f"{name}.npz", queries=window.numpy(), keys=full.numpy(), budget=budget, window=WINDOW,
            pool_kernel=pool, sinks=SINKS, beta=BETA, safeguard=SAFEGUARD, **entries,
        )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
