"""How fast a token is decoded, and what memory that takes: the paper's Figure 6 and its table at 16K."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sparsemm.results.efficiency import (
    OURS,
    Bench,
    BenchClaim,
    Measured,
    Place,
    Way,
    machine_text,
    paper_budget,
    paper_shapes,
    places,
)
from sparsemm.results.efficiency_tables import lines, table_16k, to_csv, to_markdown
from sparsemm.results.figures_efficiency import draw_efficiency
from sparsemm.results.files import write_atomically
from sparsemm.results.verdicts import NOT_SUPPORTED, NOT_TESTED, SUPPORTED, Verdict
from sparsemm.results.wandb_bench import BenchBoard

CLAIM = BenchClaim(
    title="Figure 6: decoding speed and peak memory",
    sentence=(
        "With a small cache a token takes as long after 32K tokens as after 2K, and less memory "
        "(arXiv:2506.05344, Figure 6). The paper's numbers are those of its code on its "
        "hardware, which reallocates the cache for every token: compare the ratios, not the milliseconds. "
        "Ours are models of these shapes; one sequence, the median of rounds."
    ),
    methods=("full", "sparsemm"),
)
MODEL, PROMPT = "llava_next_vicuna_7b", 32_768  # of the paper's sentences
FASTER = 1.87  # times the full cache's speed: 70.9 / 37.9
LESS = 0.47  # of the full cache's peak memory: 1 - 17.38 / 32.87


def draw(results: Sequence[Bench], folder: Path) -> list[Path]:
    """Write figure6.svg, .png, .md and .csv into `folder`; without results the paper's numbers alone.

    Args:
        results: contents of bench.json files; of the same place the newest counts.
        folder: made where it is missing.
    """
    found = places(results)
    measured = dict.fromkeys(place.shape for place in found)
    paper = not measured or any(shape in paper_shapes() for shape in measured)
    shapes = (*(paper_shapes() if paper else ()), *(one for one in measured if one not in paper_shapes()))
    title = f"{CLAIM.title}{_measured_on(found)}"
    shown = [*lines(found, shapes, CLAIM.methods), *(table_16k(found) if paper else ())]
    verdicts = "\n".join(
        f"- **{one.verdict}**: {one.sentence}" + "".join(f"\n  - {reason}" for reason in one.reasons)
        for one in judge(results)
    )
    folder.mkdir(parents=True, exist_ok=True)
    text = to_markdown(shown, title, CLAIM.sentence)
    write_atomically(folder / "figure6.md", f"{text}\n### What the paper says of this\n\n{verdicts}\n")
    write_atomically(folder / "figure6.csv", to_csv(shown))
    drawn = draw_efficiency(found, shapes, CLAIM.methods, paper, title, folder, "figure6")
    return [*drawn, folder / "figure6.md", folder / "figure6.csv"]


def board(project: str, entity: str | None) -> BenchBoard:
    """Return the figure's dashboard in W&B."""
    return BenchBoard(
        title=CLAIM.title,
        sentence=CLAIM.sentence,
        shapes=paper_shapes(),
        methods=[(method, None if method == "full" else paper_budget()) for method in CLAIM.methods],
        project=project,
        entity=entity,
    )


def judge(results: Sequence[Bench]) -> list[Verdict]:
    """Return whether ours support the paper's sentences; anything but its model, on a GPU, tests nothing."""
    found = places(results)
    return [
        _judge(
            found,
            "decode",
            "graph",
            f"After a prompt of 32K tokens Vicuna-7B with SparseMM at budget {paper_budget()} decodes at "
            f"least {FASTER} times as fast as with the full cache (both in a CUDA graph).",
            FASTER,
        ),
        _judge(
            found,
            "memory",
            None,
            f"There its peak memory is at least {LESS:.0%} less (the paper rounds it to half).",
            1 / (1 - LESS),
        ),
    ]


def _judge(
    found: Mapping[Place, Measured], measure: str, decode: str | None, sentence: str, least: float
) -> Verdict:
    """Of full cache / SparseMM, which must be at least `least`."""
    ways = (Way(OURS, "full", None, decode), Way(OURS, "sparsemm", paper_budget(), decode))
    pair = [found.get(Place(measure, MODEL, way, PROMPT)) for way in ways]
    full, ours = pair
    if full is None or ours is None:
        return Verdict(sentence, NOT_TESTED, (f"not measured with the shape of {MODEL} at {PROMPT} tokens",))
    if not (full.gpu and ours.gpu):
        return Verdict(sentence, NOT_TESTED, ("not measured on a GPU",))
    if full.machine != ours.machine:
        return Verdict(sentence, NOT_TESTED, ("the two were measured apart",))
    ratio = full.value / ours.value
    said = f"{ratio:.2f} times" if measure == "decode" else f"{1 - 1 / ratio:.1%} less"
    return Verdict(
        sentence,
        SUPPORTED if ratio >= least else NOT_SUPPORTED,
        (f"{said}, on {machine_text(ours.machine)}",),
    )


def _measured_on(found: Mapping[Place, Measured]) -> str:
    """What a reader must know of a figure that is not of the paper's models."""
    if not found:
        return ". The paper's points; ours: not measured"
    devices = ", ".join(dict.fromkeys(str(one.machine.get("device", "?")) for one in found.values()))
    on = "" if any(one.gpu for one in found.values()) else " (a CPU)"
    if any(place.shape in paper_shapes() for place in found):
        return f". Ours: {devices}{on}"
    names = ", ".join(dict.fromkeys(place.shape for place in found))
    return f": the {names} shape on {devices}{on}, no evidence about 7B models"
