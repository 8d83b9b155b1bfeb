"""Our rendered pages: they need no download, and their boxes are exact."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparsemm.heads.data.base import HeadSample, HeadSource, Region
from sparsemm.tasks.pages import PageSpec, make_page
from sparsemm.tasks.synthetic import DATA_VERSION


@dataclass(frozen=True, kw_only=True)
class Synthetic(HeadSource):
    """Pages of the heads namespace, which share no string and no seed with what is evaluated."""

    limit: int  # pages that there are
    page: Mapping[str, Any] = field(hash=False)  # fields of PageSpec

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            self._spec()
        except (ValueError, TypeError) as error:
            raise ValueError(f"heads.page: {error}") from None

    def _spec(self) -> PageSpec:
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
            for key, value in self.page.items()
        }
        return PageSpec(**plain)

    def __len__(self) -> int:
        """Pages."""
        return self.limit

    def sample(self, index: int) -> HeadSample:
        """Page `index`; a region for each of its words."""
        page = make_page("heads", self._spec(), index)
        regions = tuple(Region(word.text, word.box) for word in page.words)
        return HeadSample(f"{self._spec().kind}-{index:06d}", lambda: page.image, regions)

    def data_id(self) -> str:
        """The generator's version and the page, with a hash of what is not PageSpec's own choice."""
        spec = self._spec()
        least, most = spec.entries
        entries = f"{least}" if least == most else f"{least}-{most}"
        name = f"{DATA_VERSION}/heads/{spec.kind}/{spec.width}x{spec.height}/{entries}"
        if spec == PageSpec(spec.kind, spec.width, spec.height, spec.entries):
            return name
        return f"{name}/{hashlib.sha256(repr(spec).encode()).hexdigest()[:8]}"
