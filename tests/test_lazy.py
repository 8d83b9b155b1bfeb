"""A module that is read later: by whom it is used first, once, and again after it could not be read."""

import importlib
import sys
from threading import Barrier, Thread

import pytest

from sparsemm.lazy import read_later


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a package `slow_package` with this text, and let it be read later."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    folder = tmp_path / "slow_package"
    folder.mkdir()
    (folder / "inside.py").write_text("import slow_package\nFOUND = slow_package.FIRST\n")

    def written(text):
        (folder / "__init__.py").write_text(text)
        importlib.invalidate_caches()
        read_later("slow_package")
        return importlib.import_module("slow_package")

    yield written
    for name in [one for one in sys.modules if one.partition(".")[0] == "slow_package"]:
        del sys.modules[name]


TEXT = """
import sys
FIRST = 1
from slow_package import inside
assert not hasattr(sys.modules[__name__], "LAST")
LAST = 2
"""


def test_a_module_is_read_when_it_is_first_used_and_is_then_the_same_object(write):
    module = write(TEXT)
    assert "FIRST" not in vars(module) and "slow_package.inside" not in sys.modules
    assert (
        module.LAST == 2
        and sys.modules["slow_package"] is module is sys.modules["slow_package.inside"].slow_package
    )
    assert type(module) is type(sys) and module.__spec__.loader is module.__loader__
    with pytest.raises(AttributeError, match="module 'slow_package' has no attribute 'more'"):
        module.more  # noqa: B018


def test_importing_a_submodule_reads_its_package(write):
    module = write(TEXT)
    assert importlib.import_module("slow_package.inside").FOUND == 1 and vars(module)["LAST"] == 2


def test_a_module_that_could_not_be_read_is_not_there_and_is_read_again_when_used_again(write, tmp_path):
    module = write("FIRST = 1\nraise OSError('the disk is away')\n")
    for _ in range(2):
        with pytest.raises(OSError, match="the disk is away"):
            module.LAST  # noqa: B018
        assert "slow_package" not in sys.modules and "FIRST" not in vars(module)
        with pytest.raises(OSError, match="the disk is away"):
            importlib.import_module("slow_package")
    (tmp_path / "slow_package" / "__init__.py").write_text(TEXT)
    assert module.LAST == 2 and importlib.import_module("slow_package") is module


def test_threads_wait_for_the_one_that_reads(write):
    module = write(f"import time\ntime.sleep(0.1)\n{TEXT}COUNT = globals().get('COUNT', 0) + 1\n")
    threads, found = 4, []
    together = Barrier(threads)

    def use():
        together.wait()
        found.append((module.LAST, module.COUNT))

    started = [Thread(target=use) for _ in range(threads)]
    for one in started:
        one.start()
    for one in started:
        one.join(300)
    assert found == [(2, 1)] * threads
