"""What must be brought before a cell can run: weights, data, head scores, programs."""

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Need:
    """Something that is not on this machine yet. A configuration with needs is valid: `plan` lists them.

    Args:
        kind: weights, data, heads, package or program.
        what: what is missing, as "weights of Qwen/Qwen2-VL-7B-Instruct".
        how: the command or the step that brings it.
    """

    kind: str
    what: str
    how: str

    def __str__(self) -> str:
        return f"{self.what}: {self.how}"
