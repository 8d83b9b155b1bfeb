"""A report: the tables in every format and the figure, written to a folder; the text goes to the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsemm.results.entries import Result
from sparsemm.results.figures import MOST_PANELS, draw
from sparsemm.results.files import storage_error, write_atomically
from sparsemm.results.page import Material, Page, describe, write_page
from sparsemm.results.render import WIDTH, latex, markdown, to_csv, to_latex, to_markdown, to_text
from sparsemm.results.tables import Claim, build_tables, label_key, missing_labels
from sparsemm.results.verdicts import Verdict, judge

VERDICTS = "What the paper's numbers say, and whether these support it (a case: one model on one benchmark)"


def write_report(
    name: str,
    results: Iterable[Result],
    expected_labels: Sequence[Mapping[str, Any]],
    out_dir: Path,
    claim: Claim | None = None,
    beside_results: Iterable[Result] = (),
    material: Material | None = None,
    failures: Iterable[tuple[Mapping[str, Any], str]] = (),
) -> str:
    """Write table.md, .csv, .tex, figure.png, .svg and page.html into `out_dir`; return what to print.

    `beside_results` are the finished results of the experiment that `claim.beside` names; with `material` the
    page shows samples and head maps too; `failures` are labels of cells that failed, and why.
    """
    found = list(results)
    tables = build_tables(found, expected_labels, claim, beside_results)
    missing = missing_labels([result["label"] for result in found], expected_labels)
    reasons = {label_key(label): f"failed: {reason}" for label, reason in failures}
    why = [reasons.get(label_key(label), "") for label in missing]
    missing_line = _missing(len(missing), len(expected_labels), len([reason for reason in why if reason]))
    title = claim.title if claim and claim.title else name
    intro = [line for line in (claim.sentence if claim else "", missing_line) if line]
    verdicts = judge(tables, claim) if claim else []

    whole_markdown = "\n\n".join([f"## {title}", *intro, *map(to_markdown, tables), *_markdown(verdicts)])
    tex = "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            *(f"% {latex(line)}" for line in intro),
            *map(to_latex, tables),
            *_latex(verdicts),
        ]
    )
    paths = [out_dir / "table.md", out_dir / "table.csv", out_dir / "table.tex"]
    for path, content in zip(paths, (whole_markdown, to_csv(tables), tex), strict=True):
        write_atomically(path, content)
    try:
        paths += draw(tables, out_dir)
    except OSError as error:
        raise storage_error(out_dir, error) from error
    page = Page(
        title=title,
        sentence=claim.sentence if claim else "",
        tables=tables,
        results=found,
        verdicts=verdicts,
        expected=len(expected_labels),
        missing_line=missing_line,
        missing=[
            ", ".join([describe(label), *([reason] if reason else [])])
            for label, reason in zip(missing, why, strict=True)
        ],
        material=material,
    )
    paths.append(write_page(page, out_dir / "page.html"))

    shown = [] if claim and claim.figure else [*map(to_text, tables)]
    said = [part for line in intro for part in textwrap.wrap(line, WIDTH)] if claim and claim.paper else intro
    lines = [title, *said, "", *shown, *_text(verdicts)]
    if len(tables) > MOST_PANELS:
        lines.append(f"The figure shows the first {MOST_PANELS} of {len(tables)} tables.")
    return "\n".join([*lines, *(str(path) for path in paths)]) + "\n"


def _missing(missing: int, expected: int, failed: int) -> str:
    if not missing:
        return ""
    if not failed:
        return f"{missing} of {expected} cells not run yet."
    others = f", {missing - failed} not run yet" if missing > failed else ""
    return f"{missing} of {expected} cells have no result: {failed} failed{others}."


def _text(verdicts: Sequence[Verdict]) -> list[str]:
    if not verdicts:
        return []
    lines = [f"{VERDICTS}:"]
    for one in verdicts:
        lines += textwrap.wrap(
            f"{one.verdict}: {one.sentence}", WIDTH, initial_indent="  ", subsequent_indent="    "
        )
        for reason in one.reasons:
            lines += textwrap.wrap(reason, WIDTH, initial_indent="    - ", subsequent_indent="      ")
    return [*lines, ""]


def _markdown(verdicts: Sequence[Verdict]) -> list[str]:
    if not verdicts:
        return []
    lines = [
        f"- **{one.verdict}**: {markdown(one.sentence)}"
        + "".join(f"\n  - {markdown(r)}" for r in one.reasons)
        for one in verdicts
    ]
    return [f"### {VERDICTS}", "\n".join(lines) + "\n"]


def _latex(verdicts: Sequence[Verdict]) -> list[str]:
    if not verdicts:
        return []
    lines = [
        rf"\item \textbf{{{one.verdict}}}: {latex(one.sentence)} ({latex('; '.join(one.reasons))})"
        for one in verdicts
    ]
    return [rf"\paragraph{{{VERDICTS}}}", r"\begin{itemize}", *lines, r"\end{itemize}"]
