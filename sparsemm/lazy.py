"""A module that is read when it is first used: the command line plans and submits without torch.

Importing torch takes seconds, and far longer from a disk that a cluster shares. Modules that planning looks
at name it (`import torch`) and use nothing of it until they compute. importlib's LazyLoader will not do: the
second `import` of the same name already makes it read.
"""

import sys
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any


class _Unread(ModuleType):
    """Becomes the module itself, for all who have imported it, when an attribute is asked for."""

    def __getattr__(self, name: str) -> Any:
        self.__class__ = ModuleType  # type: ignore[assignment]
        spec = self.__spec__
        assert spec and spec.loader
        if spec.submodule_search_locations is not None:
            self.__path__ = spec.submodule_search_locations
        spec.loader.exec_module(self)
        return getattr(self, name)


def read_later(name: str) -> None:
    """Let `import name`, from now on, read nothing until something of the module is used."""
    if name in sys.modules:
        return
    spec = find_spec(name)
    if spec is None or spec.loader is None:  # the import itself will say so
        return
    module = module_from_spec(spec)
    unread = _Unread(name)
    unread.__dict__.update(vars(module))
    unread.__dict__.pop("__path__", None)  # who imports a submodule asks for it
    sys.modules[name] = unread
