"""How a score is shown: in percent, or on the scale and with the digits of the paper's table."""

from __future__ import annotations

from dataclasses import dataclass

from sparsemm.results import paper

PERCENT = ("anls", "accuracy", "relaxed_accuracy")  # fractions, shown in percent


@dataclass(frozen=True)
class Scale:
    """From a stored score to its text."""

    factor: float  # from the stored score to the shown one
    digits: int  # after the point

    @property
    def unit(self) -> str:
        """Return '%', or nothing."""
        return "%" if self.factor == 100 else ""

    def text(self, score: float, digits: int | None = None) -> str:
        """Return the score's text."""
        return f"{self.factor * score:.{self.digits if digits is None else digits}f}"

    def signed(self, difference: float, digits: int | None = None) -> str:
        """Return the text of a difference, with its sign."""
        digits = self.digits if digits is None else digits
        value = round(self.factor * difference, digits)
        return f"{value + 0.0:+.{digits}f}"  # + 0.0: no negative zero


def scale_of(metric: str, paper_table: str | None, model: str, task: str) -> Scale:
    """Return the paper's scale where its table has the benchmark, else percent for fractions."""
    if paper_table and paper.is_of(paper_table, task.partition(" ")[0], model.partition(" ")[0]):
        return Scale(
            100 if paper_table in paper.IN_PERCENT else 1, paper.digits(paper_table, task.partition(" ")[0])
        )
    return Scale(100, 1) if metric in PERCENT else Scale(1, 3)
