"""A model's folder without transformers: where it is, whether it is whole, what its settings say."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsemm.content import file_digest
from sparsemm.paths import is_hub_id, resolve

# what a model is made of; a hub repository's other files are not brought
FILES = ("*.safetensors", "*.json", "*.txt", "*.jinja", "*.model")
INDEX = "model.safetensors.index.json"
# the files among them that transformers, its processors and tokenizers, and this package read
READ: tuple[str, ...] = ("*.safetensors", INDEX, "adapter_config.json")
READ += ("config.json", "generation_config.json")
READ += ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
READ += ("tokenizer*.json", "*.model", "tokenizer.model.*", "tekken.json", "vocab.*", "merges.txt")
READ += ("added_tokens.json", "special_tokens_map.json", "chat_template.json", "chat_template.jinja")

# Settings of a generation_config.json that change nothing here: greedy decoding ignores how to sample and how
# to search, end tokens and lengths are settings of ours, and the rest says what generate() returns.
_SAMPLING = {"do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff"}
_SAMPLING |= {"eta_cutoff", "length_penalty", "early_stopping"}
_ENDS = {"bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "max_length"}
_ENDS |= {"max_new_tokens"}
_RETURNS = {
    "transformers_version",
    "use_cache",
    "cache_implementation",
    "cache_config",
    "return_dict_in_generate",
}
_RETURNS |= {
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "output_logits",
    "_from_model_config",
}
_RETURNS |= {"chat_format", "num_return_sequences", "trust_remote_code", "renormalize_logits"}
_IGNORED = _SAMPLING | _ENDS | _RETURNS | {"repetition_penalty"}
_NEUTRAL_AT_1 = {"num_beams", "num_beam_groups", "encoder_repetition_penalty", "guidance_scale"}


def folder_of(path: str, revision: str | None) -> Path | None:
    """A model's folder; None where `path` is a hub id whose snapshot is not here, or not all of it."""
    if not is_hub_id(path):
        return resolve(path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(path, revision=revision, local_files_only=True, allow_patterns=list(FILES))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    folder = Path(found)
    whole = (folder / "config.json").is_file() and has_weights(folder) and not missing_weights(folder)
    return folder if whole else None


def has_weights(folder: Path) -> bool:
    """Whether there are weights in safetensors format, or some of them."""
    return (folder / "model.safetensors").is_file() or (folder / INDEX).is_file() or _has_parts(folder)


def missing_weights(folder: Path) -> list[str]:
    """Files that the weights' index lists and that are not there, or the index; a dead link is not there."""
    if not (folder / INDEX).is_file():
        return [INDEX] if _has_parts(folder) and not (folder / "model.safetensors").is_file() else []
    try:
        listed = set(json.loads((folder / INDEX).read_text())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return [INDEX]
    return sorted(name for name in listed if not (folder / name).is_file())


def _has_parts(folder: Path) -> bool:
    return any(folder.glob("model-*-of-*.safetensors"))


def read_json(path: str, folder: Path, name: str) -> dict[str, Any]:
    """A JSON object of a model's folder.

    Raises:
        ValueError: a file that holds none.
    """
    try:
        content = json.loads((folder / name).read_text())
    except ValueError as error:
        raise ValueError(
            f"model.path={path}: {name} is not valid JSON ({error}). Save the model again."
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"model.path={path}: {name} is not a model's configuration. Save the model again.")
    return content


def repetition_penalty(path: str, settings: Mapping[str, Any]) -> float:
    """The repetition penalty of a generation_config.json; 1.0 where it names none.

    Raises:
        ValueError: a setting that changes greedy decoding and that is not applied here.
    """
    for key, value in settings.items():
        neutral = value in (None, False, [], {}, 0) or (key in _NEUTRAL_AT_1 and value == 1)
        if key not in _IGNORED and not neutral:
            raise ValueError(
                f"model.generation_config=true: generation_config.json of {path} sets {key}={value}, which "
                "changes greedy decoding and is not supported (repetition_penalty is). "
                "Set model.generation_config=false to leave all of them out."
            )
    penalty = settings.get("repetition_penalty")
    if penalty is not None and not (isinstance(penalty, int | float) and penalty > 0):
        raise ValueError(
            f"model.path={path}: repetition_penalty={penalty} in generation_config.json must be above 0. "
            "Correct it, or set model.generation_config=false."
        )
    return 1.0 if penalty is None else float(penalty)


def content_id(folder: Path) -> str:
    """20 hex digits of a hash of everything in a folder that can change an answer, and of nothing else.

    A hub's snapshot and a local folder with the same files have the same. Weights are read whole, once (see
    `sparsemm.content`).
    """
    whole = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file() and any(file.match(pattern) for pattern in READ):
            whole.update(f"{file.name}:{file_digest(file)}\n".encode())
    return whole.hexdigest()[:20]
