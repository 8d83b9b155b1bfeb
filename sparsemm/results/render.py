"""A table as terminal text, Markdown, LaTeX and CSV. notes.py decides what to say, this file how it looks."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from sparsemm.results import compare
from sparsemm.results.frames import frame
from sparsemm.results.notes import entry_text, kept_rows, legend, notes, title
from sparsemm.results.tables import Table

WIDTH = 110  # columns of a terminal
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


def to_text(table: Table) -> str:
    """Return the table for a terminal."""
    body: list[tuple[str, list[tuple[str, str]]]] = []
    for row in table.rows:
        cells = []
        for column in table.columns or (None,):
            entry = table.entry(row, column)
            marks = "".join(
                mark
                for mark, shown in (
                    ("*", entry and entry.best),
                    ("~", entry and entry.same_as_best),
                    ("!", entry and entry.failed),
                )
                if shown
            )
            cells.append((entry_text(entry, table.scale)[0], marks))
        body.append((table.name(row), cells))
        body += [
            (f"  {line.name}", [(text, "") for text in line.texts]) for line in compare.lines(table, row)
        ]
    kept = (
        [(name, [(text, "") for text in texts]) for name, texts in kept_rows(table)] if table.columns else []
    )
    lines = [title(table)]
    header = [("", [(str(column), "") for column in table.columns or ("",)])]
    everything = header + body + kept
    names = max(len(name) for name, _ in everything)
    room = max(len(mark) for _, cells in everything for _, mark in cells)
    width = 2 + max(len(text) for _, cells in everything for text, _ in cells)
    rule = "-" * (names + (width + room) * max(len(table.columns), 1))
    for part in (header, body, kept):
        for name, cells in part:
            lines.append(
                (name.ljust(names) + "".join(t.rjust(width) + m.ljust(room) for t, m in cells)).rstrip()
            )
        if part:
            lines.append(rule)
    said = [*legend(table, best="*", same="~", failed="!"), *notes(table)]
    if table.paper:  # many tables at once: each stays as wide as its rows
        said = [part for line in said for part in textwrap.wrap(line, WIDTH, subsequent_indent="  ")]
    return "\n".join([*lines, *said]) + "\n"


def to_markdown(table: Table) -> str:
    """Return the table for a README: intervals beside the scores, the best in bold."""
    columns = table.columns or ("score",)
    lines = [f"### {markdown(title(table))}", ""]
    lines.append("| |" + "|".join(f" {markdown(str(column))} " for column in columns) + "|")
    lines.append("|---|" + "---:|" * len(columns))
    for row in table.rows:
        cells = []
        for column in columns:
            entry = table.entry(row, column)
            text, between = entry_text(entry, table.scale)
            text = f"**{text}**" if entry and entry.best else text
            text += " ≈" if entry and entry.same_as_best else ""
            text += " †" if entry and entry.failed else ""
            cells.append(text + (f" <sub>{between.replace('-', '–')}</sub>" if between else ""))  # noqa: RUF001
        lines.append(f"| {markdown(table.name(row))} | " + " | ".join(cells) + " |")
        lines += [
            f"| &nbsp; {markdown(line.name)} | " + " | ".join(map(markdown, line.texts)) + " |"
            for line in compare.lines(table, row)
        ]
    if table.columns:
        lines += [
            f"| *{markdown(name)}* | " + " | ".join(markdown(text) for text in texts) + " |"
            for name, texts in kept_rows(table)
        ]
    explained = [*legend(table, best="**bold**", same="≈", failed="†"), *map(markdown, notes(table))]
    return "\n".join([*lines, "", *(f"- {line}" for line in explained)]) + "\n"


def to_latex(table: Table) -> str:
    """Return the table for a paper (needs booktabs)."""
    columns = table.columns or ("score",)
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{latex(title(table))}}}"]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(columns)}}}", r"\toprule"]
    lines += [" & ".join(["", *(latex(str(column)) for column in columns)]) + r" \\", r"\midrule"]
    for row in table.rows:
        cells = []
        for column in columns:
            entry = table.entry(row, column)
            text, between = entry_text(entry, table.scale)
            text = rf"\textbf{{{text}}}" if entry and entry.best else text
            text += r"$^{\approx}$" if entry and entry.same_as_best else ""
            text += r"$^{\dagger}$" if entry and entry.failed else ""
            cells.append(text + (rf" {{\tiny {between.replace('-', '--')}}}" if between else ""))
        lines.append(" & ".join([latex(table.name(row)), *cells]) + r" \\")
        lines += [
            " & ".join([rf"\quad {latex(line.name)}", *map(_signed, line.texts)]) + r" \\"
            for line in compare.lines(table, row)
        ]
    if table.columns:
        lines.append(r"\midrule")
        lines += [
            " & ".join([latex(name), *(latex(text) for text in texts)]) + r" \\"
            for name, texts in kept_rows(table)
        ]
    lines += [r"\bottomrule", r"\end{tabular}", r"\par\footnotesize"]
    lines += legend(table, best=r"\textbf{bold}", same=r"$\approx$", failed=r"$\dagger$")
    lines += [latex(line) for line in notes(table)]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def to_csv(tables: Sequence[Table]) -> str:
    """Return one line per place of the tables."""
    return str(frame(tables).to_csv(index=False, lineterminator="\n"))


def latex(text: str) -> str:
    """Escape what LaTeX would read as a command."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _signed(text: str) -> str:
    """Escape a number for LaTeX, with a minus that is not a hyphen."""
    return f"$-${text[1:]}" if text[:1] == "-" and len(text) > 1 else latex(text)


def markdown(text: str) -> str:
    """Escape what Markdown would read as a mark."""
    return "".join(f"\\{letter}" if letter in "|*_<>`\\" else letter for letter in text)
