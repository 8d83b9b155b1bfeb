"""The full cache."""

from dataclasses import dataclass

from sparsemm.methods.base import Allocator


@dataclass(frozen=True, kw_only=True)
class KeepAll(Allocator):
    """Every head keeps every entry; there is no budget."""

    keeps_all = True
