"""A module that is read when it is first used: the command line plans and submits without torch.

Importing torch takes seconds, and far longer from a disk that a cluster shares. Modules that planning looks
at name it (`import torch`) and use nothing of it until they compute. importlib's LazyLoader will not do: the
second `import` of the same name already makes it read.
"""

import copy
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from threading import Lock
from types import ModuleType
from typing import Any

_LATER: dict[str, "_Later"] = {}


class _Unread(ModuleType):
    """Becomes the module itself, for all who have imported it, when an attribute is asked for."""

    def __getattr__(self, name: str) -> Any:
        _LATER[self.__name__].read()
        return ModuleType.__getattribute__(self, name)


class _Later(MetaPathFinder, Loader):
    """Reads one module into the object that stands for it, by a common import.

    So the import system's own locks hold: other threads wait for the one that reads, and a module that could
    not be read is not there; who uses or imports it next reads it again.
    """

    def __init__(self, spec: ModuleSpec) -> None:
        self._spec = spec
        self._module = _Unread(spec.name)
        self._unread = dict(vars(module_from_spec(spec)))
        self._unread.pop("__path__", None)  # who imports a submodule asks for it
        self._lock, self._reading = Lock(), False
        vars(self._module).update(self._unread)
        sys.modules[spec.name] = self._module

    def read(self) -> None:
        """Read the module, unless it has been; return at once where this thread is reading it."""
        with self._lock:
            if not self._reading and type(self._module) is _Unread:
                sys.modules.pop(self._spec.name, None)
        import_module(self._spec.name)

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        """See importlib."""
        if fullname != self._spec.name:
            return None
        spec = copy.copy(self._spec)
        spec.loader = self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """See importlib."""
        with self._lock:
            self._reading = True
        if spec.submodule_search_locations is not None:
            self._module.__path__ = spec.submodule_search_locations
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """See importlib."""
        spec, loader = module.__spec__, self._spec.loader
        assert spec and loader
        spec.loader = module.__loader__ = loader
        try:
            loader.exec_module(module)
        except BaseException:
            vars(module).clear()
            vars(module).update(self._unread)
            with self._lock:
                self._reading = False
            raise
        with self._lock:
            module.__class__ = ModuleType
            self._reading = False
        with suppress(ValueError):  # somebody else's list by now
            sys.meta_path.remove(self)


def read_later(name: str) -> None:
    """Let `import name`, from now on, read nothing until something of the module is used."""
    if name in sys.modules:
        return
    spec = find_spec(name)
    if spec is None or spec.loader is None:  # the import itself will say so
        return
    _LATER[name] = later = _Later(spec)
    sys.meta_path.insert(0, later)
