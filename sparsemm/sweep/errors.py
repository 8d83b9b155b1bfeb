"""Hydra's and OmegaConf's complaints in the project's words: key=value, what is expected, the next step."""

import json
import re

from hydra.core.config_loader import ConfigLoader
from hydra.errors import MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    OmegaConfBaseException,
    ValidationError,
)

from sparsemm.config import nearest

LAUNCHER = "hydra.launcher."
TYPES = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false", "String": "text"}


class UnusableConfiguration(ValueError):
    """Nothing was started: the configuration cannot be used. Exit code 2."""


class CellsFailed(RuntimeError):
    """Some cells have no result. Exit code 1."""


def explain(
    error: BaseException, config: DictConfig, loader: ConfigLoader | None = None, verb: str = "run"
) -> str:
    """One line, with the nearest name that `config` (its keys) or `loader` (its groups) knows.

    Args:
        error: as Hydra or OmegaConf raised it.
        config: the defaults.
        loader: where to look groups up.
        verb: whose --cfg shows all settings.
    """
    cause = error
    while not isinstance(cause, OmegaConfBaseException) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _option(error)
    if isinstance(cause, InterpolationKeyError):
        return f"{_key(cause)}: {_first(cause)}. Correct the reference."
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        if loader is not None and _key(cause).startswith(LAUNCHER):
            return _launcher_parameter(_key(cause), loader)
        return _unknown(_key(cause), config, verb=verb)
    if isinstance(cause, ValidationError):
        return _type(cause)
    unmatched = re.match(r"Could not override '([^']+)'", str(error))
    if unmatched:
        return _unknown(unmatched[1].split("@")[0], config, loader, verb)
    unknown_group = re.match(r"Could not (?:append|find|load) '([^'/]+)/?([^']*)'", str(error))
    if unknown_group and loader is not None:
        return _unknown(unknown_group[1], config, loader, verb)
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())


def _launcher_parameter(key: str, loader: ConfigLoader) -> str:
    """What hydra/launcher=slurm takes, with its defaults."""
    config = loader.load_configuration("run", ["hydra/launcher=slurm"], RunMode.MULTIRUN)
    parameters = OmegaConf.to_container(config.hydra.launcher)
    assert isinstance(parameters, dict)
    known = {str(name): value for name, value in parameters.items() if name != "_target_"}
    name = key.removeprefix(LAUNCHER)
    if name in known:
        return f"{key}: belongs to hydra/launcher=slurm. Add that."
    listed = ", ".join(f"{name}={json.dumps(value)}" for name, value in known.items())
    return f"{key}: there is no such parameter.{nearest(name, known)} hydra/launcher=slurm takes: {listed}"


def keys_of(config: DictConfig) -> list[str]:
    """Every dotted key, without Hydra's own."""
    found: list[str] = []
    for name in config:
        if name != "hydra":
            _collect(config, str(name), found)
    return found


def _collect(config: DictConfig, dotted: str, found: list[str]) -> None:
    found.append(dotted)
    try:
        node = OmegaConf.select(config, dotted)
    except OmegaConfBaseException:
        return
    if isinstance(node, DictConfig):
        for name in node:
            _collect(config, f"{dotted}.{name}", found)


def _option(error: MissingConfigException) -> str:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    options = error.options or []
    return (
        f"{group}={name}: there is no such {group}.{nearest(name, options)} There are: {', '.join(options)}."
    )


def _unknown(key: str, config: DictConfig, loader: ConfigLoader | None = None, verb: str = "run") -> str:
    keys = keys_of(config) + (loader.list_groups("") if loader else [])
    inside = [known for known in keys if known.endswith("." + key)]
    meant = f" Did you mean {inside[0]}?" if inside else nearest(key, keys)
    return f"{key}: there is no such setting.{meant} `sparsemm {verb} --cfg job` prints all settings."


def _type(error: OmegaConfBaseException) -> str:
    first = _first(error)
    convert = re.match(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", first)
    if convert:
        return f"{_key(error)}={convert[1]}: must be {TYPES.get(convert[2], convert[2])}. Set {_key(error)}."
    union = re.match(r"Value '(.*)' of type '\w+' is incompatible with type hint '(.*)'", first)
    if union:
        hint = union[2].replace("Union[int, str]", "a whole number, or a share such as 10%")
        return f"{_key(error)}={union[1]}: must be {hint}. Set {_key(error)}."
    return f"{_key(error)}: {first}. Set {_key(error)}."


def _key(error: OmegaConfBaseException) -> str:
    """The setting; of a list's element, the list."""
    return re.sub(r"\[\d+\]$", "", str(error.full_key or error.key))


def _first(error: OmegaConfBaseException) -> str:
    return str(error.msg or error).splitlines()[0].rstrip(".")
