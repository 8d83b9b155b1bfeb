"""Small random models of every family, loaded once."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sparsemm.models.base import ModelAdapter
from sparsemm.models.llava_next import LlavaNext
from sparsemm.models.loading import TransformersModel
from sparsemm.models.qwen2_5_vl import Qwen2_5_VL
from sparsemm.models.qwen2_vl import Qwen2VL
from sparsemm.models.small import FAMILIES, save_small

CLASSES = {"qwen2_vl": Qwen2VL, "qwen2_5_vl": Qwen2_5_VL}


def make_adapter(family: str, path: Path | str, **changes: Any) -> ModelAdapter:
    fields = {"name": "small", "path": str(path), "dtype": "float32", "attention": "sdpa", **changes}
    return CLASSES.get(family, LlavaNext)(**fields)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder per family."""
    root = tmp_path_factory.mktemp("small")
    for family in FAMILIES:
        save_small(family, root / family)
    return {family: root / family for family in FAMILIES}


@pytest.fixture(scope="session")
def load(folders: dict[str, Path]) -> Callable[..., TransformersModel]:
    """A family's model with other settings."""

    def load(family: str, **changes: Any) -> Any:
        return make_adapter(family, **{"path": folders[family], **changes}).load(torch.device("cpu"))

    return load


@pytest.fixture(scope="session")
def models(load: Callable[..., TransformersModel]) -> dict[str, TransformersModel]:
    """Every family's model with default settings."""
    return {family: load(family) for family in FAMILIES}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """An image in which every pixel matters."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(name="make_adapter", scope="session")
def _make_adapter() -> Callable[..., ModelAdapter]:
    return make_adapter


@pytest.fixture(name="noise", scope="session")
def _noise() -> Callable[..., Image.Image]:
    return noise


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """A family's folder once more, with settings of a JSON file changed."""

    def copy(family: str, file: str = "config.json", **changes: Any) -> Path:
        folder = Path(
            shutil.copytree(folders[family], tmp_path / f"{family}-{len(list(tmp_path.iterdir()))}")
        )
        settings = json.loads((folder / file).read_text())
        for key, value in changes.items():
            *outer, last = key.split("__")
            place = settings
            for name in outer:
                place = place[name]
            place[last] = value
        (folder / file).write_text(json.dumps(settings))
        return folder

    return copy
