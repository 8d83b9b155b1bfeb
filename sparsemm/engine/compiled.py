"""The model's part of a decode step, compiled by PyTorch into one graph; no model class is patched.

What is compiled is a model that reads one token per row and has no cache: nothing in it changes from step to
step or from prompt to prompt, so it is compiled once for a number of rows. Attention is one custom operation,
opaque to the compiler, that finds its layer in the cache that `reading` has named.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from sparsemm.cache import RaggedCache
from sparsemm.models.base import LoadedModel

# Of inductor, for one row on a GPU: products with a vector become kernels of its own, tuned when first run;
# PyTorch says (inductor's decomposition of mm) that only these reach the memory's bandwidth. Not measured.
ONE_ROW = {"coordinate_descent_tuning": True}
SIZES = 64  # numbers of rows that one process may compile for; PyTorch's own limit is 8
INSTEAD = "set engine.decode=eager, or engine.decode=graph on a GPU."

Forward = Callable[[Tensor, Tensor], Tensor]

_cache: ContextVar[RaggedCache] = ContextVar("cache")


@contextmanager
def reading(cache: RaggedCache) -> Iterator[None]:
    """Let a compiled step append to and read `cache`."""
    token = _cache.set(cache)
    try:
        yield
    finally:
        _cache.reset(token)


@torch.library.custom_op("sparsemm::append_and_attend", mutates_args=())
def append_and_attend(query: Tensor, key: Tensor, value: Tensor, layer: int, scaling: float) -> Tensor:
    """Query [R, Hq, 1, D] with new key and value [R, H, 1, D] -> [R, 1, Hq, D].

    The cache is no argument, so its size is nothing that compiled code could depend on. Every call's result
    goes into the next layer, so none can be dropped, moved or merged with another.
    """
    here = _cache.get().layers[layer]
    if not here.is_initialized:
        here.lazy_initialization(key, value)
    output = here.decode(here.masked_queries(query), key, value, None, scaling)
    return here.masked_outputs(output).contiguous()


@append_and_attend.register_fake
def _shape_of_output(query: Tensor, key: Tensor, value: Tensor, layer: int, scaling: float) -> Tensor:
    rows, heads, new, dim = query.shape
    return query.new_empty(rows, new, heads, dim)


def compile_forward(loaded: LoadedModel, compiler: str = "inductor") -> Forward:
    """Tokens [R] and their positions [R] -> logits [R, V], to be called inside `reading`.

    Args:
        loaded: the model.
        compiler: of torch.compile; inductor's own CUDA graphs stay off, the step has its own.

    Raises:
        ValueError: nothing to compile with; when it is called first, a model that is not one graph.
    """
    if compiler == "inductor":
        check_tools(loaded.device)

    def forward(tokens: Tensor, positions: Tensor) -> Tensor:
        output = loaded.model(
            input_ids=tokens[:, None],
            position_ids=loaded.decode_positions(positions),
            use_cache=False,
            ragged_step=True,  # reaches the attention function
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    whole = partial(torch.compile, forward, backend=compiler, fullgraph=True, dynamic=False)
    several: Forward = whole()
    tuned = compiler == "inductor" and loaded.device.type == "cuda"
    one: Forward = whole(options=ONE_ROW) if tuned else several

    def checked(tokens: Tensor, positions: Tensor) -> Tensor:
        try:
            with torch._dynamo.config.patch(recompile_limit=SIZES):
                return (one if len(tokens) == 1 else several)(tokens, positions)
        except torch._dynamo.exc.Unsupported as error:
            told = str(error).strip().splitlines()[0]
            raise ValueError(
                f"engine.decode=compiled: this model's step is not one graph ({told}). To go on, {INSTEAD}"
            ) from error

    return checked


def check_tools(device: torch.device) -> None:
    """Raise ValueError where PyTorch has nothing to compile with."""
    if device.type == "cuda" and find_spec("triton") is None:
        raise ValueError(
            "engine.decode=compiled: PyTorch compiles for a GPU with Triton, which is not installed. "
            f"Install it (pip install triton), or {INSTEAD}"
        )
    names = (
        (os.environ.get("CXX"), "g++", "clang++")
        if device.type == "cpu"
        else (os.environ.get("CC"), "gcc", "clang")
    )
    if not any(name and shutil.which(name) for name in names):
        raise ValueError(
            f"engine.decode=compiled: PyTorch needs a compiler here, and neither {names[1]} nor {names[2]} "
            f"was found. Install one, or {INSTEAD}"
        )
