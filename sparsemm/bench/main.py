"""`sparsemm bench`: settings, the table, and the files."""

import csv
import json
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers

from sparsemm.api import make_method
from sparsemm.bench.decode import DecodeBench, Timed
from sparsemm.bench.kernel import LayerShape, copy_gb_per_s, time_layer
from sparsemm.bench.shapes import SHAPES, BenchModel
from sparsemm.help import VERBS
from sparsemm.kernels.backends import check_name
from sparsemm.methods.base import Method


@dataclass(frozen=True)
class Settings:
    """See `sparsemm.help`."""

    measure: str = "decode"
    shape: str = "tiny"
    prompts: tuple[int, ...] = (4096,)
    methods: tuple[str, ...] = ("full", "sparsemm")
    budgets: tuple[int, ...] = (128,)
    tokens: int = 32
    rounds: int = 5
    rows: int = 1
    backend: str = "auto"
    decode: str = "eager"
    device: str = "auto"
    dtype: str = "float32"
    out: str = "outputs/bench"

    def __post_init__(self) -> None:
        choices = {
            "measure": ("decode", "kernel"),
            "shape": tuple(SHAPES),
            "decode": ("eager", "both"),
            "device": ("auto", "cpu", "cuda"),
            "dtype": ("float32", "bfloat16", "float16"),
        }
        for key, known in choices.items():
            if getattr(self, key) not in known:
                raise ValueError(f"{key}={getattr(self, key)}: must be one of {', '.join(known)}.")
        check_name(self.backend)
        for key in ("prompts", "budgets", "tokens", "rounds", "rows"):
            found = getattr(self, key)
            if min(found if isinstance(found, tuple) else (found,), default=0) < 1:
                raise ValueError(f"{key}={found}: must be whole numbers of at least 1. Set {key}.")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device=cuda: PyTorch sees no GPU here. Set device=cpu.")
        if self.decode == "both" and self.place.type != "cuda":
            raise ValueError("decode=both: graphs need an NVIDIA GPU. Set decode=eager.")

    @property
    def place(self) -> torch.device:
        """The device."""
        found = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(found if self.device == "auto" else self.device)


def parse(arguments: Sequence[str]) -> Settings:
    """Settings from key=value.

    Raises:
        ValueError: an unknown key, or a value that cannot be.
    """
    known: dict[str, Any] = {field.name: field.default for field in fields(Settings)}
    given: dict[str, Any] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key not in known or not equals:
            raise ValueError(f"{argument}: there is no such setting. bench takes: {', '.join(known)}.")
        default = known[key]
        try:
            if isinstance(default, tuple):
                given[key] = tuple(type(default[0])(one) for one in value.split(","))
            else:
                given[key] = type(default)(value)
        except ValueError:
            raise ValueError(f"{argument}: must be a whole number. Set {key}.") from None
    return Settings(**given)


def run(arguments: Sequence[str]) -> int:
    """Time, print and write; the exit code."""
    if any(argument in ("--help", "-h") for argument in arguments):
        print(VERBS["bench"])
        return 0
    try:
        settings = parse(arguments)
        found = measure_kernel(settings) if settings.measure == "kernel" else measure(settings)
    except ValueError as error:
        print(f"sparsemm: {error}", file=sys.stderr)
        return 2
    write(Path(settings.out), found)
    return 0


def measure(settings: Settings) -> dict[str, Any]:
    """All prompts, methods and budgets, printed as they come."""
    dtype = getattr(torch, settings.dtype)
    context = max(settings.prompts) + settings.tokens + 1
    with torch.inference_mode():
        loaded = BenchModel(settings.shape, settings.place, dtype, context)
    machine = _machine(settings.place)
    weights = sum(one.numel() * one.element_size() for one in loaded.model.parameters())
    print(f"{settings.shape}, {settings.dtype}, {settings.rows} rows, weights {weights / 1e9:.3g} GB")
    print(f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        methods = _methods(settings, loaded, Path(folder))
    for prompt in settings.prompts:
        bench = DecodeBench(loaded, methods, prompt, settings.tokens, settings.backend, settings.rows)
        print(f"\nprompt of {prompt} tokens, cache computed by {bench.resolved}")
        print(f"{'way':<26}{'ms/token':>9}{'speed-up':>10}{'cache MB':>10}")
        for timed in bench.run(settings.rounds, settings.decode == "both"):
            print(_line(timed))
            results.append({"prompt_tokens": prompt, "backend": bench.resolved, **asdict(timed)})
    return {"settings": asdict(settings), "machine": machine, "weights_bytes": weights, "results": results}


def measure_kernel(settings: Settings) -> dict[str, Any]:
    """One layer's append and attention at every budget, printed as they come."""
    shape, machine = SHAPES[settings.shape], _machine(settings.place)
    dim, group = shape.hidden // shape.heads, shape.heads // shape.kv_heads
    limit = copy_gb_per_s(settings.place)
    print(f"{settings.shape}, one layer, {settings.dtype}, {settings.rows} rows")
    print(f"{machine['device']}, {machine['threads']} threads, copies {limit:.4g} GB/s")
    results = []
    for budget in settings.budgets:
        layer = LayerShape(settings.rows, shape.kv_heads, group, dim, budget)
        dtype = getattr(torch, settings.dtype)
        print(f"\n{budget} entries per KV head\n{'way':<26}{'us/token':>10}{'GB/s':>9}{'of copy':>9}")
        for one in time_layer(layer, [settings.backend], settings.place, dtype, settings.tokens):
            print(f"{one.name:<26}{one.us:>10.1f}{one.gb_per_s:>9.4g}{one.gb_per_s / limit:>9.0%}")
            results.append({"budget": budget, **asdict(one)})
    return {"settings": asdict(settings), "machine": machine, "copy_gb_per_s": limit, "results": results}


def write(folder: Path, found: Mapping[str, Any]) -> None:
    """bench.json with everything, bench.csv with a line for every way."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = []
    for one in found["results"]:
        held = dict(zip(("entry_bytes", "slot_bytes"), one.get("cache_bytes", ()), strict=False))
        lines.append({**one, **held})
    with (folder / "bench.csv").open("w", newline="") as file:
        columns = [key for key in lines[0] if key != "cache_bytes"]
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)
    print(f"\n{folder / 'bench.json'}  {folder / 'bench.csv'}")


def _line(timed: Timed) -> str:
    words = [timed.name, *([f"budget={timed.budget}"] if timed.budget else []), timed.decode]
    return (
        f"{' '.join(words):<26}{timed.ms_per_token:>9.2f}{timed.ratio:>9.2f}x"
        f"{timed.cache_bytes[0] / 1e6:>10.4g}"
    )


def _methods(settings: Settings, loaded: BenchModel, folder: Path) -> list[Method]:
    """Methods of conf/method; those that read head scores get random ones, a few of them high."""
    shape = loaded.shape
    scores = torch.rand(shape.layers, shape.query_heads, generator=torch.Generator().manual_seed(0)) ** 8
    file = folder / "heads.json"
    file.write_text(json.dumps({"format": 1, "scores": scores.tolist()}))
    made: list[Method] = []
    for name in settings.methods:
        for budget in settings.budgets:
            method = make_method(name, f"budget={budget}", f"model.head_scores={file}")
            made.append(method)
            if method.budget is None:
                break
    return made


def _machine(device: torch.device) -> dict[str, Any]:
    gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if gpu else platform.processor() or platform.machine(),
        "cuda": torch.version.cuda if gpu else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }
