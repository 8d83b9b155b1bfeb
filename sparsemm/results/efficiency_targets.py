"""The targets of speed and memory, each beside what was measured or `not measured`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsemm.results.efficiency import OURS, Bench, machine_text, when
from sparsemm.results.figures_efficiency import NOT_MEASURED
from sparsemm.results.render import markdown

SEVEN_B = ("qwen2_vl_7b", "llava_next_vicuna_7b", "llava_next_mistral_7b")
VICUNA, QWEN = "llava_next_vicuna_7b", "qwen2_vl_7b"
SPARSE: Mapping[str, Any] = {"way": OURS, "method": "sparsemm"}
GPU, CPU = "GPU", "CPU"
TARGET_GPU = "H200"  # the targets are of it; figures of others are told, not judged


@dataclass(frozen=True, kw_only=True)
class Target:
    """A figure that is wanted, and the result of a bench.json that has it.

    Args:
        what: as prose.
        wanted: the target as prose.
        shapes: one line of the table each.
        on: GPU or CPU; a result from the other one is not the target's.
        measure: of the result.
        where: what the result must say; a function says whether its value will do.
        key: of the figure.
        most: of several results the one with the largest figure counts, else the smallest.
        met: whether a figure meets the target; None: it is only told.
        shown: the figure as text.
    """

    what: str
    wanted: str
    shapes: tuple[str, ...]
    on: str
    measure: str
    where: Mapping[str, Any]
    key: str
    most: bool
    met: Callable[[float], bool] | None
    shown: Callable[[Mapping[str, Any]], str]


def _kernels(backend: str) -> bool:
    """One of our kernels, rather than plain PyTorch or another library."""
    return backend in ("triton", "cuda")


def _images(tokens: int) -> bool:
    """A prompt with images."""
    return bool(tokens)


LONG: Mapping[str, Any] = {
    **SPARSE, "rows": 1, "prompt_tokens": 32_768, "image_tokens": _images, "budget": 256
}  # fmt: skip
STEP: Mapping[str, Any] = {**LONG, "backend": _kernels, "new_tokens": 100}


def _percent(key: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda result: f"{100 * result[key]:.1f} %"


def _times(key: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda result: f"{result[key]:.2f}x"


def _limit(result: Mapping[str, Any]) -> str:
    told = f"{result['tokens_per_s']:.0f} tokens/s, {result['backend']}"
    return f"{100 * result['weight_limit_share']:.1f} % ({told})"


def _copying(budget: int, least: float) -> Target:
    return Target(
        what=f"attention and append against the published way, budget {budget}, one row",
        wanted=f"at least {least:g}x",
        shapes=SEVEN_B,
        on=GPU,
        measure="kernel",
        where={"budget": budget, "rows": 1, "way": _kernels},
        key="speedup_against_published",
        most=True,
        met=lambda value: value >= least,
        shown=_times("speedup_against_published"),
    )


def _step(decode: str, least: float | None) -> Target:
    wanted = "reported" if least is None else f"at least {least:.0%}"
    return Target(
        what=f"decode step, {decode}, bf16, batch 1, 32K prompt, budget 256: share of the weight-read limit",
        wanted=wanted.replace("%", " %"),
        shapes=(QWEN, VICUNA),
        on=GPU,
        measure="decode",
        where={**STEP, "decode": decode},
        key="weight_limit_share",
        most=True,
        met=None if least is None else lambda value: value >= least,
        shown=_limit,
    )


TARGETS = (
    Target(
        what="decode attention, 32 rows, 4K mean length, skewed like SparseMM: share of the copy bandwidth",
        wanted="at least 85 %",
        shapes=SEVEN_B,
        on=GPU,
        measure="kernel",
        where={"budget": 4096, "rows": 32, "way": _kernels},
        key="copy_share",
        most=True,
        met=lambda value: value >= 0.85,
        shown=_percent("copy_share"),
    ),
    Target(
        what="decode attention, batch 1, budget 256: microseconds per layer",
        wanted="under 12",
        shapes=SEVEN_B,
        on=GPU,
        measure="kernel",
        where={"budget": 256, "rows": 1, "way": _kernels},
        key="us",
        most=False,
        met=lambda value: value < 12,
        shown=lambda result: f"{result['us']:.1f}",
    ),
    _copying(256, 3),
    _copying(2048, 5),
    _step("graph", None),
    _step("compiled", 0.70),
    Target(
        what="the same against the full cache in the same loop, graph against graph",
        wanted="at least 1.87x (the paper)",
        shapes=(VICUNA,),
        on=GPU,
        measure="decode",
        where={**STEP, "decode": "graph"},
        key="speedup",
        most=True,
        met=lambda value: value >= 1.87,
        shown=_times("speedup"),
    ),
    *(
        Target(
            what=f"ranking, selection, gather, budget 256: share of the text prefill, {tokens // 1024}K",
            wanted="at most 3 %",
            shapes=(VICUNA, QWEN),
            on=GPU,
            measure="prefill",
            where={
                "method": "sparsemm",
                "budget": 256,
                "prompt_tokens": tokens,
                "image_tokens": _images,
                "backend": _kernels,
            },
            key="share",
            most=False,
            met=lambda value: value <= 0.03,
            shown=_percent("share"),
        )
        for tokens in (8192, 32_768)
    ),
    Target(
        what="peak memory at 32K, budget 256: less than the full cache's",
        wanted="at least 47 % (the paper)",
        shapes=(VICUNA,),
        on=GPU,
        measure="memory",
        where={**LONG, "new_tokens": 100},
        key="less_than_full",
        most=True,
        met=lambda value: value >= 0.47,
        shown=_percent("less_than_full"),
    ),
    Target(
        what="on a CPU, 4K prompt, budget 128: speed against the full cache with transformers and sdpa",
        wanted="more than 1x",
        shapes=("tiny", "qwen2_0_5b"),
        on=CPU,
        measure="decode",
        where={**SPARSE, "decode": "eager", "rows": 1, "prompt_tokens": 4096, "budget": 128},
        key="against_transformers",
        most=True,
        met=lambda value: value > 1,
        shown=_times("against_transformers"),
    ),
)


def to_markdown(benches: Sequence[Bench], intro: str = "") -> str:
    """Return the table of targets; of the same figure the newest file that has it counts.

    Args:
        benches: contents of bench.json files.
        intro: below the title.
    """
    rows = [("what", "model shape", "target", "measured", "met", "machine"), ("---",) * 6]
    machines: dict[str, int] = {}
    for target in TARGETS:
        for shape in target.shapes:
            result, bench = _find(target, shape, benches)
            measured, met, machine = NOT_MEASURED, "-", "-"
            if result is not None and bench is not None:
                measured = target.shown(result)
                met = "-" if target.met is None else "yes" if target.met(result[target.key]) else "no"
                if target.on == GPU and TARGET_GPU not in str(bench["machine"].get("device")):
                    met = f"not on an {TARGET_GPU}"
                text = machine_text(bench["machine"])
                machine = str(machines.setdefault(text, len(machines) + 1))
            rows.append((target.what, shape, target.wanted, measured, met, machine))
    lines = ["# Speed and memory: targets, and what was measured", *([intro] if intro else [])]
    lines.append("\n".join(f"| {' | '.join(map(markdown, row))} |" for row in rows))
    if machines:
        lines.append(
            "Machines:\n\n" + "\n".join(f"{number}. {markdown(text)}" for text, number in machines.items())
        )
    return "\n\n".join(lines) + "\n"


def _find(
    target: Target, shape: str, benches: Sequence[Bench]
) -> tuple[Mapping[str, Any], Bench] | tuple[None, None]:
    """The target's best result in the newest file that has one."""
    for bench in sorted(benches, key=when, reverse=True):
        found = list(_fitting(target, shape, bench))
        if found:
            best = sorted(found, key=lambda result: float(result[target.key]), reverse=target.most)[0]
            return best, bench
    return None, None


def _fitting(target: Target, shape: str, bench: Bench) -> Iterator[Mapping[str, Any]]:
    if bool(bench["machine"].get("gpu")) != (target.on == GPU):
        return
    if target.on == GPU and bench["settings"].get("dtype") not in (
        "auto",
        "bfloat16",
    ):  # auto is bfloat16 there
        return
    for result in bench["results"]:
        if result["measure"] != target.measure or result.get("shape") != shape:
            continue
        fits = all(
            wanted(result.get(key)) if callable(wanted) else result.get(key) == wanted
            for key, wanted in target.where.items()
        )
        if fits and result.get(target.key) is not None:
            yield result
