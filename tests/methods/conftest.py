"""Methods in short, and what a set of methods keeps of random queries and keys."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from sparsemm.engine.select import Selector
from sparsemm.methods.allocators.adaptive import Adaptive
from sparsemm.methods.allocators.headkv import HeadKV
from sparsemm.methods.allocators.keep_all import KeepAll
from sparsemm.methods.allocators.permuted_heads import PermutedHeads
from sparsemm.methods.allocators.pyramid import Pyramid
from sparsemm.methods.allocators.random_heads import RandomHeads
from sparsemm.methods.allocators.uniform import Uniform
from sparsemm.methods.allocators.visual_heads import VisualHeads
from sparsemm.methods.base import Method, ModelShape
from sparsemm.methods.scorers.none import NoScorer
from sparsemm.methods.scorers.recent import Recent
from sparsemm.methods.scorers.window_attention import WindowAttention

MakeMethod = Callable[..., Method]
Keep = Callable[..., Tensor]
SHAPE = ModelShape(layers=3, query_heads=8, kv_heads=4, head_dim=8)


@pytest.fixture
def shape() -> ModelShape:
    return SHAPE


@pytest.fixture(scope="session")
def head_scores() -> Tensor:
    """Concentrated scores, as visual heads have them; [L, Hq]."""
    generator = torch.Generator().manual_seed(7)
    return torch.rand(SHAPE.layers, SHAPE.query_heads, generator=generator) ** 6


@pytest.fixture(scope="session")
def make_method(head_scores: Tensor) -> MakeMethod:
    """method("sparsemm", budget=12, rho=0.1, ...) as conf/method composes it."""

    def make(
        name: str,
        budget: int | str | None,
        window: int = 4,
        rho: float = 0.1,
        seed: int = 0,
        **changes: object,
    ) -> Method:
        allocator, scorer = {
            "full": (KeepAll(), NoScorer()),
            "window": (Uniform(), Recent()),
            "snapkv": (Uniform(), WindowAttention(pool_kernel=5)),
            "pyramidkv": (Pyramid(beta=20), WindowAttention(pool_kernel=5)),
            "adakv": (Adaptive(floor=0.2), WindowAttention(pool_kernel=5)),
            "sparsemm": (VisualHeads(head_scores=head_scores, rho=rho), WindowAttention(pool_kernel=5)),
            "random": (RandomHeads(seed=seed, rho=rho), WindowAttention(pool_kernel=5)),
            "headkv": (HeadKV(head_scores=head_scores, beta=1.1), WindowAttention(pool_kernel=5)),
            "permuted": (
                PermutedHeads(head_scores=head_scores, rho=rho, seed=seed),
                WindowAttention(pool_kernel=5),
            ),
            "streamingllm": (Uniform(), Recent()),
        }[name]
        fields = {"scorer": scorer, "allocator": allocator, "window": window, "budget": budget, **changes}
        return Method(name=name, **fields)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def keep() -> Keep:
    """What methods keep: [method][L, H, T] bool, from queries [L, Hq, W, D] and keys [L, H, T, D]."""

    def select(
        methods: Sequence[Method],
        queries: Tensor | int,
        keys: Tensor | None = None,
        shape: ModelShape = SHAPE,
    ) -> Tensor:
        if isinstance(queries, int):  # that many random tokens
            torch.manual_seed(queries)
            tokens = queries
            queries = 2 * torch.randn(shape.layers, shape.query_heads, tokens, shape.head_dim)
            keys = torch.randn(shape.layers, shape.kv_heads, tokens, shape.head_dim)
        assert keys is not None
        selector = Selector(methods, shape)
        layers = [_masks(selector, layer, queries[layer], keys[layer]) for layer in range(shape.layers)]
        return torch.stack(layers, dim=1)

    return select


def _masks(selector: Selector, layer: int, queries: Tensor, keys: Tensor) -> Tensor:
    """[method, H, T] from the entries that one layer keeps."""
    tokens = keys.shape[1]
    numbered = torch.arange(tokens, dtype=torch.float32).expand(len(keys), tokens)[..., None].expand_as(keys)
    kept = selector.select(layer, queries, keys, numbered, keys.shape[2] ** -0.5)
    assert torch.equal(kept.values[:, 0].long(), kept.tokens)  # the values moved with their tokens
    rows, heads = kept.lengths.shape
    masks = torch.zeros(rows * heads, tokens, dtype=torch.bool)
    segments = torch.repeat_interleave(torch.arange(rows * heads), kept.lengths.flatten())
    masks[segments, kept.tokens] = True
    assert int(masks.sum()) == len(kept.tokens)  # no entry twice
    return masks.view(rows, heads, tokens)[list(selector.plan(tokens).row_of)]
