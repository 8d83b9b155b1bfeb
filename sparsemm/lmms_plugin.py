"""lmms-eval runs our models: `python -m lmms_eval --model sparsemm --model_args pretrained=...,method=...`.

Everything that defines a cell is in model_args, so that lmms-eval's response cache, which is keyed by them,
never mixes two methods. What it cannot see is a file that changes under the same name.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from tqdm import tqdm

if TYPE_CHECKING:
    from sparsemm.engine.generate import Engine

# model_args -> settings, as on our command line
ARGUMENTS = {
    "pretrained": "model.path",
    "model": "model",
    "revision": "model.revision",
    "dtype": "model.dtype",
    "attention": "model.attention",
    "device_map": "model.device_map",
    "head_scores": "model.head_scores",
    "method": "method",
    "budget": "budget",
    "rho": "rho",
    "seed": "seed",
    "rounding": "rounding",
    "window": "method.window",
    "sinks": "method.sinks",
    "mask": "mask",
    "protocol": "protocol",
}
OTHERS = {
    "device": "cuda, cuda:1 or cpu",
    "overrides": "any other settings, separated by semicolons: model.max_pixels=602112;engine.rows=1",
}
# prompts are read one at a time, so that scores do not depend on a batch
IGNORED = ("batch_size", "max_batch_size")
SAMPLING = {"do_sample": (False, None), "temperature": (0, None), "num_beams": (1, None)}


def manifest() -> Any:
    """The entry point: the name and the class of our model."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="sparsemm", chat_class_path="sparsemm.lmms_plugin.SparseMM")


class SparseMM(lmms):
    """A model with a compressed cache, as lmms-eval sees models.

    Args:
        pretrained: a hub id or a local folder.
        arguments: of ARGUMENTS and OTHERS.

    Raises:
        ValueError: an argument or a value that cannot be; the message names it.
    """

    is_simple = False

    def __init__(self, pretrained: str | None = None, **arguments: Any):
        super().__init__()
        from sparsemm.config import build_mask, build_method, build_model, check_settings

        known = [*ARGUMENTS, *OTHERS]
        for name in arguments:
            if name not in known and name not in IGNORED:
                raise ValueError(f"model_args {name}={arguments[name]}: must be one of {', '.join(known)}.")
        if pretrained is None:
            raise ValueError("model_args pretrained: must be given: a hub id or a folder of a model.")
        self.settings = settings_of({"pretrained": pretrained, **arguments})
        check_settings(self.settings)
        self.adapter = build_model(self.settings)
        self.method, self.mask = build_method(self.settings), build_mask(self.settings)
        self.adapter.check()
        self.method.check(self.adapter.shape())
        self.device = _device(str(arguments.get("device") or self.settings["engine"]["device"]))
        self.loaded = self.adapter.load(self.device)
        rows = int(self.settings["engine"]["rows"])  # as in a sweep, where they change 16-bit answers
        self.rows = None if self.settings["model"]["dtype"] == "float32" else rows
        self.engines: dict[tuple[int, tuple[str, ...]], Engine] = {}
        self.warned: set[str] = set()

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Answers, one prompt after the other."""
        from sparsemm.tasks.lmms_harness import from_messages

        answers = []
        for request in tqdm(requests, desc="Answering", disable=self.rank != 0):
            _, messages, kwargs, document, task, split = request.args
            try:
                images, question = from_messages(messages(self.task_dict[task][split][document]))
            except ValueError as error:
                raise ValueError(f"task {task}, document {document}: {error}.") from error
            ((answer,),) = self._engine(kwargs).answer([self.loaded.prompt(images, question)])
            text = self.loaded.text(answer.token_ids, answer.stop_strings)
            counts = TokenCounts(input_tokens=answer.prompt_tokens, output_tokens=len(answer.token_ids))
            answers.append(GenerationResult(text=text, token_counts=counts))
        return answers

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Refused: a compressed cache answers one question."""
        raise NotImplementedError("sparsemm answers one question per prompt. Choose a task of one round.")

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Refused: what is measured here is generation."""
        raise NotImplementedError(
            "sparsemm generates answers. Choose a task with output_type generate_until."
        )

    def _engine(self, kwargs: Mapping[str, Any]) -> "Engine":
        from sparsemm.engine.generate import Engine

        for name, allowed in SAMPLING.items():
            if kwargs.get(name, allowed[0]) not in allowed and name not in self.warned:
                self.warned.add(name)
                tqdm.write(f"sparsemm: the task's {name}={kwargs[name]} is ignored: answers are greedy.")
        until = kwargs.get("until") or ()
        stops = (until,) if isinstance(until, str) else tuple(until)
        limit = int(kwargs.get("max_new_tokens") or self.adapter.max_new_tokens)
        key = (limit, stops if self.adapter.stop_strings else ())
        if key not in self.engines:
            engine = self.settings["engine"]
            computed = {"backend": str(engine["cache_backend"]), "decode": str(engine["decode"])}
            self.engines[key] = Engine(
                self.loaded, [self.method], limit, self.rows, key[1], self.mask, **computed
            )
        return self.engines[key]


def settings_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a run from model_args.

    Raises:
        ValueError: an unknown option, key or family of models.
    """
    from sparsemm.api import compose_settings

    overrides = [] if "model" in arguments else [f"model={_option(arguments)}"]
    overrides += [f"{key}={_quoted(arguments[name])}" for name, key in ARGUMENTS.items() if name in arguments]
    overrides += [one.strip() for one in str(arguments.get("overrides") or "").split(";") if one.strip()]
    settings = compose_settings(*overrides)
    settings["model"]["name"] = Path(str(arguments["pretrained"])).name
    return settings


def _option(arguments: Mapping[str, Any]) -> str:
    """The option of conf/model for the family of a model, by its config.json."""
    from sparsemm.models.base import ARCHITECTURES
    from sparsemm.models.folder import folder_of, read_json

    path, revision = str(arguments["pretrained"]), arguments.get("revision")
    folder = folder_of(path, None if revision is None else str(revision))
    if folder is None:
        raise ValueError(
            f"model_args pretrained={path}: its weights are not on this machine, or not all of them. "
            f"Bring them: hf download {path}"
        )
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"model_args pretrained={path}: no config.json there. Give a hub id or a folder saved by "
            "save_pretrained."
        )
    config = read_json(path, folder, "config.json")
    found = str(config.get("model_type"))
    if found not in ARCHITECTURES:
        raise ValueError(
            f"model_args pretrained={path}: model_type={found}, must be one of {', '.join(ARCHITECTURES)}."
        )
    text = str((config.get("text_config") or {}).get("model_type"))
    options = ARCHITECTURES[found]
    return str(next((option for option in options if text in option), options[0]))


def _quoted(value: Any) -> str:
    """A value for Hydra's grammar."""
    text = "null" if value is None else str(value)
    return text if re.fullmatch(r"[\w./:%+~-]+", text) else "'" + text.replace("'", r"\'") + "'"


def _device(name: str) -> Any:
    """The device; with several processes, each takes the GPU of its rank."""
    from sparsemm.sweep.worker import find_device

    rank, processes = os.environ.get("LOCAL_RANK", "0"), int(os.environ.get("WORLD_SIZE", "1"))
    return find_device(f"cuda:{rank}" if processes > 1 and name in ("auto", "cuda") else name)
