"""Smoke runs: the same grid on small random models and a few local documents. Every path is the real one."""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sparsemm.config import Settings

DOCUMENTS = 4
PAGES = 2  # of a synthetic task
MOST_TOKENS = 4  # of an answer: random models never end one


def smoke_settings(settings: Settings) -> Settings:
    """The settings with a small random model of the same family, and small local data of the same benchmark.

    The model's name gets 'smoke' behind it, so that nobody takes the scores for the model's. What is missing
    in `<output>/smoke` is made; the same files come out every time.

    Raises:
        ValueError: a model or a task without a small counterpart.
    """
    folder = Path(settings["output"]).expanduser().absolute() / "smoke"
    before, model = settings["model"], _model(settings["model"], folder / "models")
    return {
        **settings,
        "model": model,
        "task": _task(settings["task"], folder / "data"),
        **{
            name: _replaced(settings[name], before["head_scores"], model["head_scores"])
            for name in ("allocator", "mask")
        },
    }


def _model(model: Settings, folder: Path) -> Settings:
    from sparsemm.models.families import FAMILIES

    if str(model["path"]).startswith("pkg://"):  # small already
        return {**model, "name": f"{model['name']} smoke"}
    family = next((family for family in FAMILIES if str(model["name"]).startswith(family)), None)
    if family is None:
        raise ValueError(
            f"smoke=true: model.name={model['name']} has no small counterpart: its name must begin with "
            f"one of {', '.join(FAMILIES)}. Choose another model, or leave smoke out."
        )
    path = folder / family
    _once(path, lambda new: _write_model(family, new))
    return {
        **model,
        **{"name": f"{model['name']} smoke", "path": str(path), "revision": None, "device_map": None},
        **{"dtype": "float32", "attention": "sdpa", "head_scores": str(path / "heads.json")},
    }


def _task(task: Settings, folder: Path) -> Settings:
    from sparsemm.tasks.schemas import BENCHMARKS
    from sparsemm.tasks.small import write_small

    limit = task["max_new_tokens"]
    small = {**task, "max_new_tokens": MOST_TOKENS if limit is None else min(limit, MOST_TOKENS)}
    if "data" not in task:
        return {**small, "limit": min(task["limit"], PAGES)}
    if task["name"] not in BENCHMARKS:
        raise ValueError(
            f"smoke=true: task.name={task['name']} has no small data: it must be one of "
            f"{', '.join(BENCHMARKS)}. Choose another task, or leave smoke out."
        )
    path = folder / task["name"]
    _once(path, lambda new: write_small(task["name"], new, DOCUMENTS))
    return {**small, "data": str(path), "limit": None}


def _write_model(family: str, path: Path) -> None:
    import torch

    from sparsemm.heads.files import FORMAT
    from sparsemm.models.folder import content_id
    from sparsemm.models.small import save_small

    save_small(family, path)
    config = json.loads((path / "config.json").read_text())
    text = config.get("text_config", config)
    shape = (int(text["num_hidden_layers"]), int(text["num_attention_heads"]))
    scores = torch.rand(*shape, generator=torch.Generator().manual_seed(0)) ** 4
    content = {
        **{"format": FORMAT, "scores": scores.tolist(), "data": "drawn at random, for smoke runs"},
        **{"model": content_id(path), "name": family},
    }
    (path / "heads.json").write_text(json.dumps(content) + "\n")


def _once(path: Path, write: Callable[[Path], None]) -> None:
    """Make a folder whole or not at all; of two processes the first wins."""
    if path.is_dir():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=".tmp-", dir=path.parent))
    try:
        write(new)
        new.chmod(0o755)
        new.rename(path)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _replaced(node: Any, old: Any, new: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _replaced(value, old, new) for key, value in node.items()}
    return new if node is not None and node == old else node
