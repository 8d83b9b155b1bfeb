"""Prompts, methods and grids for the random model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sparsemm.methods.allocators.adaptive import Adaptive
from sparsemm.methods.allocators.keep_all import KeepAll
from sparsemm.methods.allocators.pyramid import Pyramid
from sparsemm.methods.allocators.random_heads import RandomHeads
from sparsemm.methods.allocators.uniform import Uniform
from sparsemm.methods.allocators.visual_heads import VisualHeads
from sparsemm.methods.base import Method
from sparsemm.methods.scorers.none import NoScorer
from sparsemm.methods.scorers.recent import Recent
from sparsemm.methods.scorers.window_attention import WindowAttention
from sparsemm.models.base import Prompt
from sparsemm.models.qwen2_vl import LoadedQwen2VL, Qwen2VL
from sparsemm.tasks.pages import PageSpec, make_page

BUDGETS = (6, 9, 13, 20, 28, 40)
FULL = Method(name="full", scorer=NoScorer(), allocator=KeepAll(), window=4, budget=None)


def compress(name: str, budget: int | str = 12, rho: float = 0.1, **changes: object) -> Method:
    """A compressing method for the random model's two layers."""
    scores = torch.rand(2, 8, generator=torch.Generator().manual_seed(3)) ** 4
    allocators = {
        "window": Uniform(), "snapkv": Uniform(), "pyramidkv": Pyramid(beta=20), "adakv": Adaptive(floor=0.2),
        "sparsemm": VisualHeads(head_scores=scores, rho=rho), "random": RandomHeads(seed=0, rho=rho),
    }  # fmt: skip
    scorer = Recent() if name == "window" else WindowAttention(pool_kernel=3)
    fields = {"scorer": scorer, "allocator": allocators[name], "window": 4, "budget": budget, **changes}
    return Method(name=name, **fields)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def full() -> Method:
    return FULL


@pytest.fixture(scope="session")
def make_method() -> Callable[..., Method]:
    return compress


@pytest.fixture(scope="session")
def grid() -> list[Method]:
    """Thirty compressing cells and the full cache."""
    names = ("snapkv", "pyramidkv", "adakv", "sparsemm", "random")
    return [compress(name, budget) for name in names for budget in BUDGETS] + [FULL]


@pytest.fixture(scope="session")
def make_model(random_model_folder: Path) -> Callable[..., LoadedQwen2VL]:
    """The random model once more, in any dtype, to be changed freely."""

    def load(dtype: str = "float32", device: str = "cpu") -> LoadedQwen2VL:
        adapter = Qwen2VL(
            name="random", path=str(random_model_folder), dtype=dtype, attention="sdpa", max_pixels=2**20
        )
        return adapter.load(torch.device(device))

    return load


@pytest.fixture(scope="session")
def placed(loaded: LoadedQwen2VL, make_model: Callable[..., LoadedQwen2VL]) -> LoadedQwen2VL:
    """The random model on a GPU where there is one: kernels run there, and steps are captured."""
    return make_model(device="cuda") if torch.cuda.is_available() else loaded


def _image(width: int, height: int, index: int) -> Image.Image:
    spec = PageSpec("document", width, height, (3, 6), (10, 12))
    return make_page("train", spec, index).image


@pytest.fixture(scope="session")
def prompts(loaded: LoadedQwen2VL) -> list[Prompt]:
    """Three prompts of 22, 40 and 70 tokens or so."""
    return _prompts(loaded)


@pytest.fixture(scope="session")
def placed_prompts(placed: LoadedQwen2VL) -> list[Prompt]:
    """The same for `placed`."""
    return _prompts(placed)


def _prompts(loaded: LoadedQwen2VL) -> list[Prompt]:
    pages = [((80, 48), "ab?"), ((96, 80), "what is xy?"), ((128, 128), "k?")]
    return [loaded.prompt(_image(*size, index), ask) for index, (size, ask) in enumerate(pages)]


@pytest.fixture(scope="session")
def as_inputs(loaded: LoadedQwen2VL) -> Callable[..., dict[str, Tensor]]:
    """Prompts as one left-padded batch for `model.generate`, as a processor would make it."""

    def batch(*prompts: Prompt) -> dict[str, Tensor]:
        longest = max(prompt.tokens for prompt in prompts)
        ids = torch.full((len(prompts), longest), loaded.tokenizer.pad_token_id)
        for row, prompt in enumerate(prompts):
            ids[row, longest - prompt.tokens :] = prompt.inputs["input_ids"][0]
        return {
            "input_ids": ids,
            "attention_mask": (ids != loaded.tokenizer.pad_token_id).long(),
            "mm_token_type_ids": (ids == loaded.image_id).int(),
            "pixel_values": torch.cat([prompt.inputs["pixel_values"] for prompt in prompts]),
            "image_grid_thw": torch.cat([prompt.inputs["image_grid_thw"] for prompt in prompts]),
        }

    return batch


@pytest.fixture(scope="session")
def pages() -> list[Image.Image]:
    """Two images of different size."""
    return [_image(48, 48, 0), _image(128, 80, 1)]


WAITS = {"local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "equal", "unique"}
COPIES_FROM_THE_HOST = {"lift_fresh", "lift_fresh_copy"}  # torch.tensor(...): a graph cannot hold it


class NoLookAtTheHost(TorchDispatchMode):
    """Fails on operations that wait for the device, and on shapes that depend on values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name.strip("_") not in WAITS | COPIES_FROM_THE_HOST, name
        if name in ("index", "index_put", "index_put_"):
            assert all(one is None or one.dtype != torch.bool for one in args[1]), f"{name} by a mask"
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="session")
def no_look_at_the_host() -> type[NoLookAtTheHost]:
    """A context that fails where the host would wait for the device."""
    return NoLookAtTheHost
