"""What each answer contributes to a benchmark's score where only all answers together have one."""

import contextlib
import io
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

CIRCLE = 1_000_000  # MMBench adds it to a question's index for every rotation of its options
_SHOWN = 2000  # bytes of what a program said before it failed
_printing = threading.Lock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What a benchmark and its programs print is held back; one at a time, as it holds for the process.

    Programs' messages are shown where they fail.
    """
    with _printing, contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryFile() as said:
        errors = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(errors, said.read()[-_SHOWN:])
            raise
        finally:
            os.dup2(errors, 2)
            os.close(errors)


def cider(values: Sequence[Mapping[str, Any]]) -> list[float]:
    """CIDEr of every caption among all: their mean is the score of `textcaps_cider`."""
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    said = {place: [{"caption": value["pred"]}] for place, value in enumerate(values)}
    right = {
        place: [{"caption": caption} for caption in value["answer"]] for place, value in enumerate(values)
    }
    with quiet():
        _, scores = Cider().compute_score(tokenizer.tokenize(right), tokenizer.tokenize(said))
    return [float(score) for score in scores]


def circular(values: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """MMBench: 1 for a question of which all rotations were answered right, else 0; None for rotations.

    Rows whose index agrees modulo CIRCLE are one question. The mean of what is not None is the score of
    `mmbench_aggregate_dev_results_static`, as a fraction.
    """
    import pandas
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    questions: dict[int, list[Mapping[str, Any]]] = {}
    for value in sorted(values, key=lambda value: int(value["index"])):
        questions.setdefault(int(value["index"]) % CIRCLE, []).append(value)
    evaluator = MMBench_Evaluator()
    hits: list[float | None] = []
    for value in values:
        if int(value["index"]) >= CIRCLE:
            hits.append(None)
            continue
        rows = questions[int(value["index"])]
        answers = {row["index"]: row["answer"] for row in rows}
        hits.append(float(evaluator.eval_sub_data(pandas.DataFrame(rows), answers, static_only=True)))
    return hits
