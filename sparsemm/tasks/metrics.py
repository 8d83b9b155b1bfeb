"""Answer metrics of the benchmarks: ANLS (DocVQA), OCRBench accuracy, relaxed accuracy (ChartQA)."""

from collections.abc import Sequence


def anls(answer: str, references: Sequence[str], threshold: float = 0.5) -> float:
    """Average normalised Levenshtein similarity: the best over the references, 0 below the threshold.

    Source: arXiv:1907.00490, with the lower-casing and white space rules of DocVQA.
    """
    best = 0.0
    for reference in references:
        left, right = " ".join(answer.lower().split()), " ".join(reference.lower().split())
        longest = max(len(left), len(right))
        distance = _levenshtein(left, right) / longest if longest else 0.0
        best = max(best, 1.0 - distance)
    return best if best >= threshold else 0.0


def contains(answer: str, references: Sequence[str]) -> float:
    """1 where a reference stands in the answer, ignoring case: how OCRBench counts text recognition.

    Source: arXiv:2305.07895.
    """
    text = answer.lower().strip().replace("\n", " ")
    return float(any(reference.lower().strip().replace("\n", " ") in text for reference in references))


def relaxed_accuracy(answer: str, references: Sequence[str], tolerance: float = 0.05) -> float:
    """1 where a number is within 5 % of the reference, or a text equals it, ignoring case: ChartQA's metric.

    Source: arXiv:2203.10244.
    """
    return float(any(_relaxed(answer, reference, tolerance) for reference in references))


def _relaxed(answer: str, reference: str, tolerance: float) -> bool:
    got, want = _number(answer), _number(reference)
    if got is not None and want:
        return abs(got - want) / abs(want) <= tolerance
    return answer.strip().lower() == reference.strip().lower()


def _number(text: str) -> float | None:
    text = text.strip()
    try:
        return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _levenshtein(left: str, right: str) -> int:
    previous = list(range(len(right) + 1))
    for row, one in enumerate(left, start=1):
        current = [row]
        for column, two in enumerate(right, start=1):
            change = previous[column - 1] + (one != two)
            current.append(min(previous[column] + 1, current[-1] + 1, change))
        previous = current
    return previous[-1]
