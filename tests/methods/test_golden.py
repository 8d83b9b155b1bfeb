"""With rounding=paper every method keeps exactly what the published code keeps."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sparsemm.methods.allocators.adaptive import Adaptive
from sparsemm.methods.allocators.pyramid import Pyramid
from sparsemm.methods.allocators.uniform import Uniform
from sparsemm.methods.allocators.visual_heads import VisualHeads
from sparsemm.methods.base import Method, ModelShape
from sparsemm.methods.scorers.window_attention import WindowAttention

GOLDEN = Path(__file__).parent.parent / "golden"
METHODS = ("snapkv", "pyramidkv", "adakv", "sparsemm")


def read(case: int, rounding: str):
    """Methods, queries, keys, shape and what the published code kept: [method][L, H, T] bool."""
    data = np.load(GOLDEN / f"case{case}.npz")
    queries, keys = torch.from_numpy(data["query_window"]), torch.from_numpy(data["keys"])
    shape = ModelShape(queries.shape[0], queries.shape[1], keys.shape[1], keys.shape[3])
    scores = torch.from_numpy(data["query_head_scores"])
    allocators = {
        "snapkv": Uniform(),
        "pyramidkv": Pyramid(beta=int(data["pyramid_beta"])),
        "adakv": Adaptive(floor=float(data["adakv_floor"])),
        "sparsemm": VisualHeads(head_scores=scores, rho=float(data["rho"])),
    }
    methods = [
        Method(
            name=name,
            scorer=WindowAttention(pool_kernel=int(data["pool_kernel"])),
            allocator=allocators[name],
            window=int(data["window"]),
            budget=int(data["budget"]),
            rounding=rounding,
        )
        for name in METHODS
    ]
    tokens = int(data["prompt_tokens"])
    golden = [np.unpackbits(data[f"keep_{name}"], axis=-1)[..., :tokens] for name in METHODS]
    return methods, queries, keys, shape, torch.from_numpy(np.stack(golden)).bool()


@pytest.mark.parametrize("case", range(5))
def test_paper_rounding_keeps_exactly_the_golden_entries(case, keep):
    methods, queries, keys, shape, golden = read(case, "paper")
    kept = keep(methods, queries, keys, shape)
    for name, ours, published in zip(METHODS, kept, golden, strict=True):
        assert torch.equal(ours, published), f"{name}: {int((ours != published).sum())} entries differ"


@pytest.mark.parametrize("case", range(5))
def test_exact_rounding_gives_every_method_the_same_total_on_the_golden_inputs(case, keep):
    methods, queries, keys, shape, _ = read(case, "exact")
    heads, tokens = shape.layers * shape.kv_heads, keys.shape[2]
    expected = heads * min(methods[0].limit.entries, tokens)
    assert keep(methods, queries, keys, shape).sum((1, 2, 3)).tolist() == [expected] * len(METHODS)
