"""Metrics against examples worked out by hand."""

import pytest

from sparsemm.tasks.metrics import anls, contains, relaxed_accuracy


@pytest.mark.parametrize(
    "answer, references, expected",
    [
        ("abcd", ["abcd"], 1.0),
        ("ABcd", ["abCD"], 1.0),  # case is ignored
        ("  ab   cd ", ["ab cd"], 1.0),  # so is white space around and between
        ("abxd", ["abcd"], 0.75),
        ("abc", ["abcd"], 0.75),
        ("ab", ["abcd"], 0.5),  # at the threshold it counts
        ("a", ["abcd"], 0.0),  # 0.25, below the threshold
        ("abcde fghij", ["abcd efghij"], 1 - 2 / 11),
        ("abcd", ["zzzz", "abcx", "abcd"], 1.0),  # the best reference
        ("", ["abcd"], 0.0),
        ("kitten", ["sitting"], 1 - 3 / 7),
        ("", [""], 1.0),
    ],
)
def test_anls(answer, references, expected):
    assert anls(answer, references) == pytest.approx(expected)


def test_anls_threshold_is_a_parameter():
    assert anls("a", ["abcd"], threshold=0.2) == pytest.approx(0.25)


@pytest.mark.parametrize(
    "answer, references, expected",
    [
        ("the word is HELLO.", ["hello"], 1.0),
        ("hel lo", ["hello"], 0.0),
        ("line\nbreak", ["line break"], 1.0),
        ("abc", ["abcd"], 0.0),
        ("abc", ["zz", "b"], 1.0),
        ("", ["a"], 0.0),
    ],
)
def test_ocrbench_counts_an_answer_that_contains_a_reference(answer, references, expected):
    assert contains(answer, references) == expected


@pytest.mark.parametrize(
    "answer, references, expected",
    [
        ("100", ["100"], 1.0),
        ("105", ["100"], 1.0),  # exactly 5 %
        ("95", ["100"], 1.0),
        ("105.1", ["100"], 0.0),
        ("94.9", ["100"], 0.0),
        ("-100", ["100"], 0.0),
        ("-98", ["-100"], 1.0),
        ("12%", ["0.12"], 1.0),  # percent is a hundredth
        ("12%", ["12"], 0.0),
        ("12.3%", ["12%"], 1.0),
        ("0", ["0"], 1.0),  # a zero reference has no 5 %: it must be said literally
        ("0.0", ["0"], 0.0),
        ("0.01", ["0"], 0.0),
        ("Yes", ["yes"], 1.0),
        ("yes.", ["yes"], 0.0),
        ("12 apples", ["12"], 0.0),
        (" 12 ", ["12"], 1.0),
        ("7", ["yes", "7"], 1.0),
        ("", ["7"], 0.0),
        ("%", ["7"], 0.0),
        ("nan", ["7"], 0.0),
    ],
)
def test_relaxed_accuracy(answer, references, expected):
    assert relaxed_accuracy(answer, references) == expected
