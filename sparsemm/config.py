"""The types of the configuration, and how its sections become objects. Values live in conf/."""

import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.config_store import ConfigStore
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import MISSING

from sparsemm.bench.settings import Settings as BenchSettings

if TYPE_CHECKING:
    from sparsemm.methods.base import Method

Settings = dict[str, Any]
UNREAD = {"Tensor": Any}  # in type hints: torch is not imported to look at a class
DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")
BACKENDS = ("auto", "torch", "triton", "cuda", "flash_attn")  # of the cache: sparsemm.kernels.backends


@dataclass
class MethodConf:
    """A protection and a budget; the scorer and the allocator are sections of their own."""

    name: str = MISSING
    window: int = MISSING
    sinks: int = MISSING
    budget: int | str | None = MISSING
    rounding: str = MISSING


@dataclass
class PageConf:
    """How hard a rendered page is to read."""

    width: int = MISSING
    height: int = MISSING
    entries: list[int] = MISSING
    font_size: list[int] = MISSING
    contrast: list[int] = MISSING
    fonts: list[str] = MISSING


@dataclass
class TaskConf:
    """Rendered pages and questions about them."""

    _target_: str = MISSING
    name: str = MISSING
    limit: int = MISSING
    first: int = MISSING
    questions: int = MISSING
    max_new_tokens: int = MISSING
    page: PageConf = field(default_factory=PageConf)


@dataclass
class EngineConf:
    """How answers are computed."""

    device: str = MISSING
    threads: int | None = MISSING
    cache_backend: str = MISSING
    decode: str = MISSING
    batch_prompts: int = MISSING
    rows: int = MISSING


@dataclass
class TrackingConf:
    """What W&B gets."""

    mode: str = MISSING
    project: str = MISSING
    entity: str | None = MISSING
    samples: int = MISSING
    suffix: str = MISSING


@dataclass
class RunConf:
    """The root. Sections of type Any are checked against the class that their `_target_` names."""

    protocol: Any = MISSING
    data: Any = MISSING
    model: Any = MISSING
    method: MethodConf = field(default_factory=MethodConf)
    scorer: Any = MISSING
    allocator: Any = MISSING
    mask: Any = MISSING
    task: Any = MISSING
    engine: EngineConf = field(default_factory=EngineConf)
    tracking: TrackingConf = field(default_factory=TrackingConf)
    budget: int | str = MISSING
    rho: float = MISSING
    seed: int = MISSING
    rounding: str = MISSING
    output: str = MISSING
    shards: int = MISSING
    find_heads: bool = MISSING
    samples: int = MISSING
    out: str = MISSING
    import_file: str | None = MISSING
    smoke: bool = MISSING
    job_file: str | None = MISSING
    watch: bool = MISSING


BenchConf = make_dataclass(  # the root of `sparsemm bench`
    "BenchConf",
    [
        *((key, hint, field(default=MISSING)) for key, hint in typing.get_type_hints(BenchSettings).items()),
        ("tracking", TrackingConf, field(default_factory=TrackingConf)),
    ],
)


def register_schemas() -> None:
    """Put the schemas into Hydra's ConfigStore, in a group of their own: no option list shows them."""
    store = ConfigStore.instance()
    nodes = {"run": RunConf, "task": TaskConf, "engine": EngineConf, "bench": BenchConf}
    for name, node in nodes.items():
        store.store(group="schema", name=name, node=node, provider="sparsemm")


def build_model(settings: Settings) -> Any:
    """The model adapter of a cell (nothing is loaded yet)."""
    return build(settings["model"])


def build_task(settings: Settings) -> Any:
    """The task of a cell."""
    return build(settings["task"])


def build_method(settings: Settings) -> "Method":
    """The compression method of a cell."""
    from sparsemm.methods.base import Method

    return Method(
        **settings["method"], scorer=build(settings["scorer"]), allocator=build(settings["allocator"])
    )


def build_mask(settings: Settings) -> Any:
    """Which heads a cell masks."""
    return build(settings["mask"])


def build(node: Settings) -> Any:
    """Make what `_target_` names; errors of its own come out as they are."""
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError | OSError):
            raise error.__cause__ from None
        raise ValueError(str(error)) from error


def nearest(name: str, known: Iterable[str]) -> str:
    """' Did you mean x?', or nothing where no name is near."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]}?" if close else ""


def check_settings(settings: Settings) -> None:
    """Raise ValueError for the first value that no run could use."""
    for section in ("model", "task", "scorer", "allocator", "mask"):
        check_target(section, settings[section])
    _one_of("model.dtype", settings["model"].get("dtype", "float32"), DTYPES)
    engine = settings["engine"]
    _one_of("engine.device", engine["device"], DEVICES)
    _one_of("engine.cache_backend", engine["cache_backend"], BACKENDS)
    _one_of("engine.decode", engine["decode"], ("eager", "graph", "compiled"))
    for key in ("threads", "batch_prompts", "rows"):
        if engine[key] is not None and engine[key] < 1:
            raise ValueError(f"engine.{key}={engine[key]}: must be at least 1. See conf/engine/default.yaml.")


def check_target(section: str, node: Mapping[str, Any]) -> None:
    """Raise ValueError for a key that the class of `node` does not have, lacks, or has with another type."""
    known = _fields(section, str(node.get("_target_")))
    for key, value in node.items():
        if key == "_target_":
            continue
        if key not in known:
            raise ValueError(
                f"{section}.{key}={value}: there is no such setting.{nearest(key, known)} "
                f"{section} takes: {', '.join(known)}."
            )
        hint, _ = known[key]
        nested = isinstance(value, Mapping) and "_target_" in value
        if not nested and not _fits(value, hint):
            raise ValueError(f"{section}.{key}={value}: must be {_words(hint)}. Set {section}.{key}.")
    for key, (hint, needed) in known.items():
        if needed and key not in node:
            raise ValueError(f"{section}.{key}: must be given ({_words(hint)}). Add it to the YAML file.")


@cache
def _fields(section: str, target: str) -> dict[str, tuple[Any, bool]]:
    module, _, name = target.rpartition(".")
    try:
        cls = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{section}._target_={target}: cannot be imported ({error}). Correct the YAML file."
        ) from error
    if not is_dataclass(cls):
        raise ValueError(f"{section}._target_={target}: must be a dataclass. Correct the YAML file.")
    hints = typing.get_type_hints(cls, localns=UNREAD)
    return {
        f.name: (hints[f.name], f.default is NO_DEFAULT and f.default_factory is NO_DEFAULT)
        for f in fields(cls)
        if f.init
    }


def _fits(value: Any, hint: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    if origin in (list, tuple):
        return isinstance(value, list | tuple)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint) if hint in (str, bool, types.NoneType) else True


def _words(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(map(_words, typing.get_args(hint)))
    if typing.get_origin(hint) in (list, tuple):
        return "a list, as [first, second]"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    names[types.NoneType] = "null"
    return names.get(hint, str(hint).removeprefix("typing."))


def _one_of(key: str, value: Any, known: Iterable[str]) -> None:
    if value not in known:
        raise ValueError(f"{key}={value}: must be one of {', '.join(known)}.{nearest(str(value), known)}")


def exact_types(section: str, node: Settings) -> Settings:
    """`node` with whole numbers as floats where its class wants floats: 0 and 0.0 are one setting."""
    known = _fields(section, str(node["_target_"]))
    return {
        key: float(value)
        if key in known and known[key][0] is float and not isinstance(value, dict)
        else value
        for key, value in node.items()
    }
