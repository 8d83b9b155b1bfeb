"""A report: the tables in every format and the figure, written to a folder; the text goes to the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsemm.results.entries import Result
from sparsemm.results.figures import MOST_PANELS, draw
from sparsemm.results.files import storage_error, write_atomically
from sparsemm.results.render import latex, to_csv, to_latex, to_markdown, to_text
from sparsemm.results.tables import Claim, build_tables, missing_labels


def write_report(
    name: str,
    results: Iterable[Result],
    expected_labels: Sequence[Mapping[str, Any]],
    out_dir: Path,
    claim: Claim | None = None,
) -> str:
    """Write table.md, .csv, .tex and figure.png, .svg into `out_dir`; return what to print."""
    found = list(results)
    tables = build_tables(found, expected_labels, claim)
    missing = missing_labels([result["label"] for result in found], expected_labels)
    missing_line = f"{len(missing)} of {len(expected_labels)} cells not run yet." if missing else ""
    title = claim.title if claim and claim.title else name
    intro = [line for line in (claim.sentence if claim else "", missing_line) if line]

    markdown = "\n\n".join([f"## {title}", *intro, *map(to_markdown, tables)])
    tex = "\n".join(
        ["% needs \\usepackage{booktabs}", *(f"% {latex(line)}" for line in intro), *map(to_latex, tables)]
    )
    paths = [out_dir / "table.md", out_dir / "table.csv", out_dir / "table.tex"]
    for path, content in zip(paths, (markdown, to_csv(tables), tex), strict=True):
        write_atomically(path, content)
    try:
        paths += draw(tables, out_dir)
    except OSError as error:
        raise storage_error(out_dir, error) from error

    lines = [title, *intro, "", *map(to_text, tables)]
    if len(tables) > MOST_PANELS:
        lines.append(f"The figure shows the first {MOST_PANELS} of {len(tables)} tables.")
    return "\n".join([*lines, *(str(path) for path in paths)]) + "\n"
