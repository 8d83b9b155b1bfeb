"""Find the visual heads of the tiny model: which heads look at the word that is being read.

    python -m sparsemm.heads.search model.path=outputs/tiny/model out=heads.json pages=60

A page of the heads namespace is read aloud greedily. For every generated character whose word stands on the
page exactly once, each query head whose strongest attention (last query, over all keys, at the step that
predicts the character) falls on an image token of the word's box scores 1 / (image tokens of the box). A
sample's score is the sum over its characters; a head's score is the mean over samples (arXiv:2506.05344).
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor
from tqdm import tqdm
from transformers import DynamicCache

from sparsemm.heads.files import FORMAT
from sparsemm.models.base import LoadedModel
from sparsemm.models.qwen2_vl import Qwen2VL
from sparsemm.tasks.pages import Page, PageSpec, make_page, png_sha256
from sparsemm.tasks.synthetic import DATA_VERSION, READ_ALL


@dataclass
class Settings:
    """Command line: key=value."""

    model: dict[str, Any] = field(default_factory=lambda: {"path": "pkg://sparsemm.data/tiny"})
    out: str = "heads.json"
    pages: int = 60
    width: int = 256  # pixels
    height: int = 256  # pixels
    entries: int = 12
    max_new_tokens: int = 160


def region(box: tuple[int, int, int, int], grid_width: int, side: int) -> list[int]:
    """Image tokens (row by row) that a box in pixels touches; a token covers side x side pixels."""
    left, top, right, bottom = box
    rows, columns = range(top // side, (bottom - 1) // side + 1), range(left // side, (right - 1) // side + 1)
    return [row * grid_width + column for row in rows for column in columns]


def words_being_read(text: str, page: Page) -> list[int | None]:
    """For every character of `text`: the index of its word on the page; None where no single word matches."""
    places: dict[str, list[int]] = {}
    for index, word in enumerate(page.words):
        places.setdefault(word.text, []).append(index)
    spans: list[int | None] = []
    for token in text.split(" "):
        found = places.get(token, [])
        spans += [found[0] if len(found) == 1 else None] * len(token) + [None]
    return spans[: len(text)]


@torch.inference_mode()
def score_page(loaded: LoadedModel, page: Page, max_new_tokens: int) -> tuple[Tensor, dict[str, int]]:
    """Scores [L, Hq] of one page, and what matched. The model must run eager attention."""
    shape = loaded.shape
    scores = torch.zeros(shape.layers, shape.query_heads)
    prompt = loaded.prompt(page.image, READ_ALL)
    inputs, cache = dict(prompt.inputs), DynamicCache()
    image_tokens = (
        inputs["input_ids"][0] == loaded.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    ).nonzero()[:, 0]
    grid_width = page.image.width // _side(loaded)
    last = {"input_ids": inputs["input_ids"][:, -1:], "position_ids": inputs["position_ids"][..., -1:]}
    inputs["input_ids"], inputs["position_ids"] = (
        inputs["input_ids"][:, :-1],
        inputs["position_ids"][..., :-1],
    )
    loaded.model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
    looks, ids = [], []
    for step in range(max_new_tokens):
        output = loaded.model(**last, past_key_values=cache, use_cache=True, output_attentions=True)
        token = int(output.logits[0, -1].argmax())
        if token in loaded.eos_ids:
            break
        looks.append(torch.stack([layer[0, :, -1].argmax(-1) for layer in output.attentions]))  # [L, Hq]
        ids.append(token)
        position = torch.tensor([prompt.next_position + step], device=loaded.device)
        last = {
            "input_ids": torch.tensor([[token]], device=loaded.device),
            "position_ids": loaded.decode_positions(position),
        }
    tokens = loaded.tokenizer.convert_ids_to_tokens(ids)  # None for ids that only fill up the vocabulary
    text = "".join(token if token and len(token) == 1 else "\ufffd" for token in tokens)
    matched = hits = 0
    for look, span in zip(looks, words_being_read(text, page), strict=False):
        if span is None:
            continue
        wanted = image_tokens[region(page.words[span].box, grid_width, _side(loaded))]
        inside = torch.isin(look, wanted)
        scores += inside / len(wanted)
        matched, hits = matched + 1, hits + int(inside.sum())
    return scores, {"characters": len(ids), "matched": matched, "hits": hits}


def _side(loaded: LoadedModel) -> int:
    vision = loaded.model.config.vision_config
    return int(vision.patch_size * vision.spatial_merge_size)


def search(settings: Settings) -> dict[str, Any]:
    """The content of a head-score file."""
    adapter = Qwen2VL(
        **{"name": "tiny", "dtype": "float32", "attention": "sdpa", "max_pixels": 2**20, **settings.model}
    )
    loaded = adapter.load(torch.device("cpu"))
    if settings.width % _side(loaded) or settings.height % _side(loaded):
        raise ValueError(
            f"width={settings.width} height={settings.height}: must be multiples of {_side(loaded)}."
        )
    loaded.model.set_attn_implementation({"text_config": "eager", "vision_config": "sdpa"})
    spec = PageSpec("document", settings.width, settings.height, (settings.entries,) * 2)
    total, counts, images = torch.zeros(loaded.shape.layers, loaded.shape.query_heads), [], []
    for index in tqdm(range(settings.pages), desc="reading", unit="page"):
        page = make_page("heads", spec, index)
        scores, count = score_page(loaded, page, settings.max_new_tokens)
        total += scores
        counts.append(count)
        images.append(png_sha256(page.image)[:16])
    return {
        "format": FORMAT,
        "scores": [[round(value, 6) for value in row] for row in (total / settings.pages).tolist()],
        "model": adapter.content_id(),
        "data": f"{DATA_VERSION}/heads/document/{settings.width}x{settings.height}/{settings.entries}",
        "samples": settings.pages,
        "counts": {key: sum(count[key] for count in counts) for key in ("characters", "matched", "hits")},
        "images": images,
    }


def main(arguments: list[str]) -> None:
    """Parse key=value arguments, search, write the file."""
    settings = OmegaConf.to_object(
        OmegaConf.merge(OmegaConf.structured(Settings), OmegaConf.from_dotlist(arguments))
    )
    assert isinstance(settings, Settings)
    out = Path(settings.out).expanduser()
    out.parent.mkdir(parents=True, exist_ok=True)
    content = search(settings)
    counts = content["counts"]
    if not counts["hits"]:
        raise SystemExit(
            f"{counts['matched']} of {counts['characters']} characters matched and no head looked at a word: "
            "nothing was written. This search is for models with a character tokenizer."
        )
    out.write_text(json.dumps(content) + "\n")
    read = f"{counts['matched']} of {counts['characters']} characters matched"
    print(f"{settings.out}: {content['samples']} pages, {read}")


if __name__ == "__main__":
    main(sys.argv[1:])
