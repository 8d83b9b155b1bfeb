"""A small random model of the tiny model's architecture, for tests that need a real model but no skill."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

if not torch.cuda.is_available():  # kernels run in Triton's interpreter; it is asked for before the import
    os.environ["TRITON_INTERPRET"] = "1"

from transformers import Qwen2VLForConditionalGeneration

from sparsemm.models.qwen2_vl import LoadedQwen2VL, Qwen2VL
from sparsemm.models.tiny import build_config, build_tokenizer, save

# no example fails for the time that it takes, and every run tries the same ones
settings.register_profile(
    "steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")

LONG = ("cluster", "test_smoke", "test_compile", "sweep/worker", "test_search", "tracking", "test_cli")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, so that no process of `make test` is left alone with one."""
    order = {part: place for place, part in enumerate(LONG)}

    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(Path(__file__).parent).as_posix()
        return min((order[part] for part in LONG if part in path), default=len(LONG))

    items.sort(key=place)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """What a test draws does not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def random_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, 8 query heads, 4 KV heads, weights of a size that makes attention peaked."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = Qwen2VLForConditionalGeneration(build_config(tokenizer, layers=2))
    for weight in model.parameters():
        if weight.dim() >= 2:
            torch.nn.init.normal_(weight, std=2 * weight.shape[1] ** -0.5)
    folder = tmp_path_factory.mktemp("model")
    save(model.eval(), tokenizer, 2**20, folder)
    return folder


@pytest.fixture(scope="session")
def loaded(random_model_folder: Path) -> LoadedQwen2VL:
    """The random model in float32 on the CPU."""
    return load(random_model_folder, "float32")


def load(folder: Path, dtype: str) -> LoadedQwen2VL:
    """A model folder in any dtype."""
    adapter = Qwen2VL(name="random", path=str(folder), dtype=dtype, attention="sdpa", max_pixels=2**20)
    return adapter.load(torch.device("cpu"))
