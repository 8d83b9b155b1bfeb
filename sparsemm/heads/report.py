"""What the search shows: numbers on the terminal, pictures and a page beside the head-score file."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsemm.heads.compare import compare, describe
from sparsemm.heads.data.base import HeadSource
from sparsemm.heads.files import folder_of, load_head_scores, read_head_file
from sparsemm.heads.overlay import Shown, choose_heads, show_sample
from sparsemm.heads.page import Picture, agreement_of_halves, to_html
from sparsemm.heads.partial import describe_counts
from sparsemm.heads.pictures import DARK, LIGHT, PAGE_DPI, curves, heat_map, heat_maps, overlay, png
from sparsemm.models.base import LoadedModel

SHOWN = 2  # samples with pictures: the first ones with a matched word
LOOKED_AT = 10  # samples that are tried for them


def summary(content: Mapping[str, Any], scores: Tensor) -> str:
    """What was found, in a few lines."""
    layers, heads = scores.shape
    unmatched = content.get("unmatched")
    lines = [
        f"{content.get('name')}: {layers} layers x {heads} heads; {content.get('samples')} samples, "
        f"{content.get('data')}" + (f", {unmatched} more without a match" if unmatched else "")
    ]
    if (content.get("counts") or {}).get("tokens"):
        lines.append(describe_counts(content["counts"]))
    lines.append(describe(scores))
    halves = agreement_of_halves(content)
    if halves is not None:
        lines.append(f"halves of the samples: rank correlation {halves:.3f}")
    best, _ = choose_heads(scores)
    lines.append("best heads (layer.head, from 0): " + ", ".join(f"{layer}.{head}" for layer, head in best))
    return "\n".join(lines)


def illustrate(
    out: Path, source: HeadSource | None = None, load: Callable[[], LoadedModel] | None = None
) -> list[Path]:
    """Write pictures and the page of a head-score file into the folder beside it.

    Args:
        out: the file.
        source: the images, for pictures of where heads look; without them there are none.
        load: brings the model into memory, for the same.

    Returns:
        The page first, then the pictures.
    """
    content, scores, folder = read_head_file(str(out)), load_head_scores(str(out)), folder_of(out)
    folder.mkdir(parents=True, exist_ok=True)
    name = str(content.get("name") or "scores")
    drawn: list[tuple[str, Any, str, str, bool]] = [
        (
            "heatmap", heat_map(scores), f"Head scores of {name}, layers by heads",
            "Each head's share of the score. Frames: the best 5 %.", False,
        ),
        (
            "cumulative", curves({name: scores}), f"Share of the score that the best heads of {name} carry",
            "How few heads carry how much: heads from the best to the worst.", False,
        ),
    ]  # fmt: skip
    best, worst = choose_heads(scores)
    shown = _samples(source, load, [*best, *worst]) if source is not None and load is not None else []
    for number, one in enumerate(shown):
        said = ", ".join(word.word for word in one.words)
        alt = f"Attention of {len(best) + len(worst)} heads while {said} are read"
        caption = (
            f"Sample {one.id}: words evenly spaced over the answer. Orange: attention while the word "
            "is said, each panel up to its own maximum; frame: the word; below: the share of the head's "
            "attention that lies on it."
        )
        drawn.append((f"sample-{number}", overlay(one, best, worst), alt, caption, True))
    paths, pictures = [folder / "page.html"], []
    for file, draw, alt, caption, wide in drawn:
        light, dark = (png(draw, theme, PAGE_DPI) for theme in (LIGHT, DARK))
        pictures.append(Picture(light, dark, alt, caption, wide))
        paths.append(folder / f"{file}.png")
        paths[-1].write_bytes(png(draw, LIGHT))
    paths[0].write_text(to_html(content, scores, pictures), encoding="utf-8")
    return paths


def compare_files(paths: Sequence[str], picture: Path | None) -> str:
    """How far head-score files of one model agree, in words.

    Args:
        paths: the files.
        picture: gets their curves; beside it come their heat maps, and the numbers as CSV.

    Raises:
        ValueError: a file that cannot be read, or scores of other shapes.
    """
    scores, names = {path: load_head_scores(path) for path in paths}, _names(paths)
    rows = ["one,other,rank_correlation,best_heads,overlap"]
    lines = [f"{path}: {describe(one)}" for path, one in scores.items()]
    for path in paths:
        halves = agreement_of_halves(read_head_file(path))
        if halves is not None:
            lines.append(f"{path}: rank correlation between halves of its samples {halves:.3f}")
            rows.append(f"{names[path]},halves of its samples,{halves:.4f},,")
    for place, one in enumerate(paths):
        for other in paths[place + 1 :]:
            found = compare(scores[one], scores[other])
            lines.append(
                f"{one} and {other}: rank correlation {found.correlation:.3f}; of the best {found.heads} "
                f"heads both name {found.overlap:.0%}"
            )
            rows.append(
                f"{names[one]},{names[other]},{found.correlation:.4f},{found.heads},{found.overlap:.4f}"
            )
    if picture is not None:
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(png(curves({names[path]: one for path, one in scores.items()}), LIGHT))
        maps = picture.with_name(f"{picture.stem}-heatmaps.png")
        maps.write_bytes(png(heat_maps({names[path]: one for path, one in scores.items()}), LIGHT))
        table = picture.with_suffix(".csv")
        table.write_text("\n".join(rows) + "\n")
        lines += [str(picture), str(maps), str(table)]
    return "\n".join(lines)


def _names(paths: Sequence[str]) -> dict[str, str]:
    """Short names that tell the files apart."""
    stems = {path: Path(path).stem for path in paths}
    return stems if len(set(stems.values())) == len(paths) else {path: path for path in paths}


def _samples(
    source: HeadSource, load: Callable[[], LoadedModel], heads: list[tuple[int, int]]
) -> list[Shown]:
    found: list[Shown] = []
    with torch.inference_mode():
        for index in range(min(LOOKED_AT, len(source))):
            one = show_sample(load(), source.sample(index), source, heads)
            found += [one] if one is not None else []
            if len(found) == SHOWN:
                break
    return found
