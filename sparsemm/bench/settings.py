"""What `sparsemm bench` can be asked; the values live in conf/bench.yaml."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    import torch

MEASURES = ("decode", "prefill", "memory", "grid", "kernel")
DECODES = ("eager", "graph", "compiled")
DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "float32", "bfloat16", "float16")
RANDOM = "random"  # weights
MOST_ROWS = 32


@dataclass(frozen=True)
class Settings:
    """One run of the benchmark, checked.

    Raises:
        ValueError: a value that cannot be, or that cannot be measured on this machine.
    """

    measure: tuple[str, ...]
    shape: tuple[str, ...]
    prompts: tuple[int, ...]
    methods: tuple[str, ...]
    budgets: tuple[int, ...]
    tokens: int
    rounds: int
    rows: tuple[int, ...]
    backend: str
    decode: tuple[str, ...]
    device: str
    threads: int | None
    dtype: str
    images: bool | None
    weights: str
    smoke: bool
    out: str

    def __post_init__(self) -> None:
        from sparsemm.bench.shapes import SHAPES
        from sparsemm.kernels.backends import BACKENDS

        known = {"measure": MEASURES, "shape": tuple(SHAPES), "backend": BACKENDS, "decode": DECODES}
        known |= {"device": DEVICES, "dtype": DTYPES}
        for key, choices in known.items():
            self._one_of(key, choices)
        for key in ("methods", "prompts", "budgets", "rows"):
            self._some(key)
        for key in ("prompts", "budgets", "tokens", "rounds", "rows"):
            if min(_all(getattr(self, key))) < 1:
                raise ValueError(f"{key}={shown(getattr(self, key))}: must be at least 1. Set {key}.")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads={self.threads}: must be at least 1, or null. Set threads.")
        if max(self.rows) > MOST_ROWS:
            raise ValueError(f"rows={shown(self.rows)}: must be at most {MOST_ROWS}. Set rows.")
        text = [one for one in self.shape if not SHAPES[one].reads_images]
        if self.images and text:
            raise ValueError(
                f"images=true: shape={text[0]} reads text alone. Set images=null, or choose another shape."
            )
        if self.weights != RANDOM and (text or len(self.shape) > 1):
            raise ValueError(
                f"weights={self.weights}: belong to one model with images, but shape={shown(self.shape)}. "
                f"Set shape to its own, or weights={RANDOM}."
            )
        self._check_machine()

    def _one_of(self, key: str, choices: Sequence[str]) -> None:
        self._some(key)
        for value in _all(getattr(self, key)):
            if value not in choices:
                raise ValueError(f"{key}={value}: must be one of {', '.join(choices)}. Set {key}.")

    def _some(self, key: str) -> None:
        if not _all(getattr(self, key)):
            raise ValueError(f"{key}=[]: must be at least one. Set {key}.")

    def _check_machine(self) -> None:
        import torch

        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device=cuda: PyTorch sees no GPU here. Set device=cpu.")
        if "decode" in self.measure and "graph" in self.decode and self.place.type != "cuda":
            raise ValueError("decode=graph: needs an NVIDIA GPU. Set decode=eager.")

    @property
    def place(self) -> "torch.device":
        """The device."""
        import torch

        found = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(found if self.device == "auto" else self.device)

    @property
    def numbers(self) -> "torch.dtype":
        """The dtype of weights and cache; `auto` is bfloat16 on a GPU and float32 on a CPU."""
        import torch

        found = "bfloat16" if self.place.type == "cuda" else "float32"
        dtype: torch.dtype = getattr(torch, found if self.dtype == "auto" else self.dtype)
        return dtype

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Settings":
        """From a composed configuration; with smoke=true something small of everything.

        Raises:
            ValueError: as the class.
        """
        given = {key: tuple(one) if isinstance(one, list) else one for key, one in values.items()}
        settings = cls(**{**given, **(SMOKE if given["smoke"] else {})})
        return replace(settings, out=f"{settings.out}/smoke") if settings.smoke else settings


SMOKE: dict[str, Any] = {  # a CPU measures it in seconds; no figure of it means anything
    "measure": MEASURES,
    "shape": ("tiny",),
    "prompts": (192,),
    "budgets": (48,),
    "tokens": 4,
    "rounds": 2,
    "rows": (1,),
    "backend": "torch",
    "decode": ("eager",),
    "device": "cpu",
    "dtype": "float32",
    "weights": RANDOM,
}
LISTS = tuple(key for key, hint in get_type_hints(Settings).items() if str(hint).startswith("tuple"))
_ASSIGNED = re.compile(r"(\+{0,2})(\w+)=(.*)")


def as_lists(arguments: Iterable[str]) -> list[str]:
    """Overrides for Hydra: `prompts=1024,4096`, and `prompts=1024`, are lists here, never a multirun."""
    found = []
    for argument in arguments:
        match = _ASSIGNED.fullmatch(argument)
        if match and match[2] in LISTS and not match[3].startswith("["):
            argument = f"{match[1]}{match[2]}=[{match[3]}]"
        found.append(argument.removeprefix("+") if argument.startswith("+smoke=") else argument)
    return found


def shown(value: Any) -> str:
    """A value as on the command line."""
    return ",".join(map(str, _all(value)))


def as_dict(settings: Settings) -> dict[str, Any]:
    """For bench.json."""
    return {
        one.name: list(value) if isinstance(value := getattr(settings, one.name), tuple) else value
        for one in fields(settings)
    }


def _all(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
