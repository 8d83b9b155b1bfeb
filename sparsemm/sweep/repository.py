"""Composition for grids: every YAML file is read once, and Hydra's own configuration is left out.

A grid composes the same few files hundreds of times, and its cells hold nothing of Hydra's. This stands on
private parts of Hydra 1.3.8, which is pinned; a test holds that grids come out as by full composition.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf


class GridLoader:
    """Composes `config_name` with overrides, without Hydra's own section; files that change are not seen."""

    def __init__(self, loader: ConfigLoaderImpl, master: DictConfig) -> None:
        self.config_name = master.hydra.job.config_name
        self._parser = OverridesParser.create(config_loader=loader)
        self._loader = copy.copy(loader)
        # the repository of a composition knows the search path that the primary configuration sets
        hydras = list(OmegaConf.to_container(master.hydra.overrides.hydra))
        _, repository = loader._parse_overrides_and_create_caching_repo(self.config_name, hydras)
        self._repository = _Repository(repository)

    @property
    def chooses_by_choices(self) -> bool:
        """Whether a file read so far names another by what is chosen elsewhere: `foo_${task}`."""
        return self._repository.chooses_by_choices

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """What Hydra's load_sweep_config gives, less `hydra`; what it raises may be worded otherwise."""
        parsed = self._parser.parse_overrides(list(overrides))
        self._loader.validate_sweep_overrides_legal(parsed, run_mode=RunMode.RUN, from_shell=True)
        repository = CachingConfigRepository(
            self._repository
        )  # composing changes what it loads: fresh copies
        defaults = create_defaults_list(
            repository, self.config_name, parsed, prepend_hydra=False, skip_missing=False
        )
        config = self._loader._compose_config_from_defaults_list(defaults.defaults, repository)
        OmegaConf.set_struct(config, True)
        self._loader._apply_overrides_to_config(defaults.config_overrides, config)
        return config


class _Repository(IConfigRepository):
    """A repository with a memory, and without what concerns Hydra itself."""

    def __init__(self, repository: IConfigRepository) -> None:
        self._repository = repository
        self._memory: dict[Any, Any] = {}
        self.chooses_by_choices = False

    def __deepcopy__(self, _: Any) -> "_Repository":
        return self

    def load_config(self, config_path: str) -> ConfigResult | None:
        return copy.deepcopy(self._once("load", self._load, config_path))

    def group_exists(self, config_path: str) -> bool:
        return bool(self._once("group", self._repository.group_exists, config_path))

    def config_exists(self, config_path: str) -> bool:
        return bool(self._once("config", self._repository.config_exists, config_path))

    def get_group_options(
        self, group_name: str, results_filter: ObjectType | None = ObjectType.CONFIG
    ) -> list[str]:
        return list(self._once("options", self._repository.get_group_options, group_name, results_filter))

    def get_schema_source(self) -> ConfigSource:
        return self._repository.get_schema_source()

    def get_sources(self) -> list[ConfigSource]:
        return list(self._repository.get_sources())

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        raise NotImplementedError("a grid has one search path")

    def _load(self, config_path: str) -> ConfigResult | None:
        found = copy.deepcopy(self._repository.load_config(config_path))
        if found is not None and isinstance(found.config, DictConfig):
            if "hydra" in found.config:
                del found.config["hydra"]
            found.defaults_list = [
                one
                for one in found.defaults_list or []
                if not str(getattr(one, "group", "")).lstrip("/").startswith("hydra/")
            ]
        if found is not None and any("${" in str(vars(one)) for one in found.defaults_list or []):
            self.chooses_by_choices = True
        return found

    def _once(self, kind: str, ask: Callable[..., Any], *about: Any) -> Any:
        key = (kind, *about)
        if key not in self._memory:
            self._memory[key] = ask(*about)
        return self._memory[key]
