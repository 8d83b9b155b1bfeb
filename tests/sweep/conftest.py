"""A model folder without weights, and Hydra as the command line sets it up."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from sparsemm.cli import register
from sparsemm.sweep.compose import Composer

MakeComposer = Callable[..., Composer]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What planning reads of a model: its configuration, its head scores and the hash of its weights."""
    folder = tmp_path_factory.mktemp("model")
    config = {"model_type": "qwen2_vl", "num_hidden_layers": 2, "num_attention_heads": 4}
    config |= {"num_key_value_heads": 2, "hidden_size": 32}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"weights")
    scores = [[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]]
    (folder / "heads.json").write_text(json.dumps({"format": 1, "scores": scores}))
    return folder


@pytest.fixture
def model(model_folder: Path) -> list[str]:
    """The overrides that choose this model."""
    return [f"model.path={model_folder}", f"model.head_scores={model_folder}/heads.json"]


@pytest.fixture(scope="session")
def make_composer() -> MakeComposer:
    """A composer for the configuration of `arguments`, fast or by full composition."""
    register()
    with initialize_config_module("sparsemm.conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()

    @cache
    def make(*arguments: str, fast: bool = True) -> Composer:
        master = loader.load_configuration("run", list(arguments), RunMode.MULTIRUN)
        return Composer(loader, master, fast)

    return make
