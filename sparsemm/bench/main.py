"""`sparsemm bench`: what was asked for is measured, printed and written, one model after the other."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from sparsemm.api import make_method
from sparsemm.bench import decode, grid, kernel, memory, prefill
from sparsemm.bench.files import BenchFiles, all_runs
from sparsemm.bench.machine import describe
from sparsemm.bench.models import adapter_of, make_model, weights_bytes
from sparsemm.bench.prompts import image_tokens, make_prompt
from sparsemm.bench.results import Result, attempt, free, result
from sparsemm.bench.settings import RANDOM, Settings, as_dict
from sparsemm.bench.shapes import SHAPES
from sparsemm.bench.tables import group, header, line
from sparsemm.config import nearest
from sparsemm.engine.compiled import check_tools
from sparsemm.kernels.backends import resolve
from sparsemm.methods.base import Method, ModelShape
from sparsemm.models.base import LoadedModel, Prompt
from sparsemm.paths import resolve as resolve_path

Progress = Callable[[int, int], AbstractContextManager["tqdm[Any]"]]  # all measurements, those that are done


def in_silence(total: int, done: int) -> AbstractContextManager["tqdm[Any]"]:
    """No progress is shown."""
    return tqdm(total=total, initial=done, disable=True)


def run(
    values: Mapping[str, Any], experiment: str | None = None, progress: Progress = in_silence
) -> tuple[Path, int]:
    """Measure, print and write; return the folder, and how many measurements failed.

    Args:
        values: of every key of conf/bench.yaml.
        experiment: whose picture is drawn from the results.
        progress: shows it; a measurement is one measure of one model after one prompt.

    Raises:
        ValueError: what cannot be measured; nothing has been done.
    """
    settings = Settings.of(dict(values))
    methods = _check(settings)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    copy = kernel.copy_gb_per_s(settings.place)
    machine = describe(settings.place, copy)
    print(
        f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}, copies {copy:.4g} GB/s"
    )
    files, last, failed = BenchFiles(Path(settings.out), as_dict(settings), machine), None, 0
    prompts = [1 if one == "kernel" else len(settings.prompts) for one in settings.measure]
    with progress(len(settings.shape) * sum(prompts), 0) as bar:
        for found in _results(settings, methods, copy):
            files.add(found)
            failed += "error" in found
            another = group(found) != last
            bar.update(another and last is not None)
            with tqdm.external_write_mode():  # results stand above the bar
                print(*([header(found)] if another else []), line(found), sep="\n", flush=True)
            last = group(found)
        bar.update(1)
    print(f"\n{files.folder / 'bench.json'}  {files.folder / 'bench.csv'}")
    if experiment is not None:
        module = import_module(f"sparsemm.experiments.{experiment}")
        for path in module.draw(all_runs(files.folder), files.folder):
            print(path)
    return files.folder, failed


def _check(settings: Settings) -> dict[str, list[Method]]:
    """The methods for every shape; what cannot run here is refused before anything is measured."""
    place, numbers = settings.place, settings.numbers
    try:
        for shape in settings.shape:
            resolve(settings.backend, place, numbers, SHAPES[shape].attention.head_dim)
        if "decode" in settings.measure and "compiled" in settings.decode:
            check_tools(place)
        if settings.weights != RANDOM:
            adapter_of(settings.shape[0], settings.weights, numbers)
    except ValueError as error:  # in the words of other verbs
        told = str(error).replace("engine.cache_backend", "backend").replace("model.path", "weights")
        told = told.replace("engine.decode", "decode")
        raise ValueError(told) from error
    return {shape: make_methods(settings, SHAPES[shape].attention) for shape in settings.shape}


def make_methods(settings: Settings, shape: ModelShape) -> list[Method]:
    """Methods of conf/method at every budget; those that read head scores get random ones, a few high.

    Raises:
        ValueError: an unknown method, or a budget that it cannot have.
    """
    scores = torch.rand(shape.layers, shape.query_heads, generator=torch.Generator().manual_seed(0)) ** 8
    known = sorted(file.stem for file in resolve_path("pkg://sparsemm.conf/method").glob("*.yaml"))
    made: list[Method] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "heads.json"
        file.write_text(json.dumps({"format": 1, "scores": scores.tolist()}))
        for name in settings.methods:
            if name not in known:
                raise ValueError(f"methods={name}: must be one of {', '.join(known)}.{nearest(name, known)}")
            try:
                found = make_method(name, f"budget={settings.budgets[0]}", f"model.head_scores={file}")
                made += [
                    replace(found, budget=one) for one in (settings.budgets if found.budget else (None,))
                ]
            except ValueError as error:
                raise ValueError(f"methods={name}: {error}".replace("budget=", "budgets=", 1)) from error
    return made


def _results(settings: Settings, methods: Mapping[str, list[Method]], copy: float) -> Iterator[Result]:
    for shape in settings.shape:
        if "kernel" in settings.measure:
            yield from kernel.measure(settings, shape, copy)
        measures = [one for one in settings.measure if one != "kernel"]
        if measures:
            yield from _of_model(settings, shape, methods[shape], measures, copy)
        free()


def _of_model(
    settings: Settings, shape: str, methods: Sequence[Method], measures: Sequence[str], copy: float
) -> Iterator[Result]:
    context = max(settings.prompts) + settings.tokens + 1
    loaded, error = attempt(
        partial(make_model, shape, settings.weights, settings.place, settings.numbers, context)
    )
    if loaded is None:
        for tokens in settings.prompts:
            yield from _none(measures, shape, tokens, methods, error)
        return
    with tqdm.external_write_mode():
        print(f"\n{shape}, {str(settings.numbers)[6:]}, weights {weights_bytes(loaded) / 1e9:.3g} GB")
    images = SHAPES[shape].reads_images if settings.images is None else settings.images
    for tokens in settings.prompts:
        prompt, error = attempt(partial(make_prompt, loaded, tokens, images))
        if prompt is None:
            yield from _none(measures, shape, tokens, methods, error)
            continue
        told = {
            "shape": shape,
            "prompt_tokens": prompt.tokens,
            "image_tokens": image_tokens(loaded, prompt),
        }
        for measure in measures:
            yield from _measured(measure, settings, loaded, prompt, methods, copy, told)
            free()


def _measured(
    measure: str,
    settings: Settings,
    loaded: LoadedModel,
    prompt: Prompt,
    methods: Sequence[Method],
    copy: float,
    told: dict[str, Any],
) -> Iterator[Result]:
    backend, tokens, rounds = settings.backend, settings.tokens, settings.rounds
    if measure == "prefill":
        yield from prefill.measure(loaded, prompt, methods, rounds, backend, told)
    elif measure == "memory":
        yield from memory.measure(loaded, prompt, methods, tokens, backend, told)
    elif measure == "grid":
        full = make_method("full")
        yield grid.measure(loaded, prompt, full, methods, tokens, rounds, backend, told)
    else:
        for rows in settings.rows:
            yield from decode.measure(loaded, prompt, methods, settings, rows, copy, told)
            free()


def _none(
    measures: Sequence[str], shape: str, tokens: int, methods: Sequence[Method], error: str | None
) -> Iterator[Result]:
    """What there was no memory for."""
    for measure in measures:
        for method in methods if measure != "grid" else [None]:
            named = {} if method is None else {"method": method.name, "budget": method.budget}
            yield result(measure, shape, prompt_tokens=tokens, **named, error=error)
