"""Small local data in the schema of every benchmark, for tests and smoke runs: rendered pages, real columns.

Columns and types are those of the repositories that lmms-eval 0.7.3 reads. Scores on this data say nothing
about a model; they show that the path from a benchmark's files to its score works.
"""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from sparsemm.tasks.pages import Kind, Page, PageSpec, make_page
from sparsemm.tasks.schemas import BENCHMARKS, Row, write_table

WIDTH, HEIGHT = 416, 288  # pixels
ANSWERS = 10  # people whose answers VQAv2 and TextVQA hold


def write_small(benchmark: str, folder: Path, samples: int = 4) -> None:
    """Write `samples` questions in a benchmark's schema below `folder`, one parquet file per table.

    Where a benchmark asks several questions about one image, so does this data. The same arguments give the
    same rows.

    Raises:
        ValueError: a benchmark that is not one of BENCHMARKS, or no samples.
    """
    if benchmark not in BENCHMARKS:
        raise ValueError(f"benchmark={benchmark}: must be one of {', '.join(BENCHMARKS)}.")
    if samples < 1:
        raise ValueError(f"samples={samples}: must be at least 1.")
    if benchmark == "gqa":
        pages = [_page("chart", number) for number in range(-(-samples // 2))]
        images = [{"id": f"n{number:06d}", "image": _png(page)} for number, page in enumerate(pages)]
        write_table("gqa_images", images, folder)
    make = _ROWS[benchmark]
    write_table(benchmark, [make(number) for number in range(samples)], folder)


def _docvqa(number: int) -> Row:
    page, (key, value) = _asked("document", number)
    return {
        "questionId": str(49_000 + number),
        "question": f"What is the value of {key}?",
        "question_types": ["form"],
        "image": _png(page),
        "docId": 14_000 + number // 2,
        "ucsf_document_id": f"abcd{number // 2:04d}",
        "ucsf_document_page_no": "1",
        "answers": [value, f"{key}: {value}"],
        "data_split": "val",
    }


def _ocrbench(number: int) -> Row:
    page, (key, value) = _asked("document", number)
    if number % 2:
        return {
            "dataset": "FUNSD",
            "question": f"what is written in the image for '{key}'? Answer with the text in the image.",
            "question_type": "Key Information Extraction",
            "answer": [value],
            "image": _png(page),
        }
    words = _page("words", number)
    return {
        "dataset": "IIIT5K",
        "question": "what is written in the image?",
        "question_type": "Regular Text Recognition",
        "answer": [words.words[0].text],
        "image": _png(words),
    }


def _textvqa(number: int) -> Row:
    page, (key, value) = _asked("document", number)
    question = f"what is written next to {key}?"
    return {
        "image_id": f"{number // 2:016x}",
        "question_id": 34_602 + number,
        "question": question,
        "question_tokens": question.removesuffix("?").split(),
        "image": _png(page),
        "image_width": WIDTH,
        "image_height": HEIGHT,
        "flickr_original_url": "",
        "flickr_300k_url": "",
        "answers": _people(value, key),
        "image_classes": ["Poster"],
        "set_name": "val",
        "ocr_tokens": [word.text for word in page.words],
    }


def _chartqa(number: int) -> Row:
    page, (key, value) = _asked("chart", number)
    return {
        "type": "human_test" if number % 2 else "augmented_test",
        "question": f"What is the value of {key}?",
        "answer": value,
        "image": _png(page),
    }


def _textcaps(number: int) -> Row:
    page = _page("words", number)
    first, last = page.words[0].text, page.words[-1].text
    captions = [
        f"A page that says {first} at the top.",
        f"The words {first} and {last} are printed on paper.",
        f"A sheet with {len(page.words)} words, the last one is {last}.",
        f"Printed text that begins with {first}.",
        f"A light page with the text {page.text}.",
    ]
    return {
        "question_id": str(number),
        "question": "Provide a one-sentence caption for the provided image.",
        "image": _png(page),
        "image_id": f"{number:016x}",
        "image_classes": ["Poster"],
        "flickr_original_url": "",
        "flickr_300k_url": "",
        "image_width": WIDTH,
        "image_height": HEIGHT,
        "set_name": "val",
        "image_name": f"{number:016x}",
        "image_path": f"train/{number:016x}.jpg",
        "caption_id": [5 * number + index for index in range(len(captions))],
        "caption_str": captions,
        "reference_strs": captions,
    }


def _mmbench(number: int) -> Row:
    """Questions come in pairs: the options in one order, then rotated, with an index 1,000,000 above."""
    base, turns = divmod(number, 2)
    page = _page("chart", base)
    values = [value for _, value in page.pairs][:4]
    options = values[turns:] + values[:turns]
    key, value = page.pairs[0]
    letters = dict(zip("ABCD", [*options, *["nan"] * (4 - len(options))], strict=True))
    return {
        "index": 241 + base + 1_000_000 * turns,
        "question": f"What is the value of the bar {key}?",
        "hint": "nan" if base % 2 else "The value stands above each bar.",
        "answer": next(letter for letter, option in letters.items() if option == value),
        **letters,
        "category": "ocr",
        "image": _png(page),
        "source": "rendered",
        "L2-category": "finegrained_perception (instance-level)",
        "comment": "nan",
        "split": "dev",
    }


def _gqa(number: int) -> Row:
    page = _page("chart", number // 2)
    (one, left), (two, right) = page.pairs[number % 2], page.pairs[number % 2 + 1]
    answer = "yes" if int(left) > int(right) else "no"
    return {
        "id": f"2013{number:05d}",
        "imageId": f"n{number // 2:06d}",
        "question": f"Is the bar {one} higher than the bar {two}?",
        "answer": answer,
        "fullAnswer": f"{answer.capitalize()}, {one} has {left} and {two} has {right}.",
        "isBalanced": True,
        "groups": {"global": "", "local": "13-bar"},
        "entailed": "",
        "equivalent": f"['2013{number:05d}']",
        "types": {"structural": "verify", "semantic": "rel", "detailed": "relVerify"},
        "semanticStr": f"select: bar->verify higher: {two}",
    }


def _vqav2(number: int) -> Row:
    page = _page("chart", number // 2)
    count = len(page.pairs)
    question, answer, other, kind = (
        (f"What number is above {page.pairs[0][0]}?", page.pairs[0][1], page.pairs[1][1], "what number is"),
        ("How many bars are there?", str(count), str(count + 1), "how many"),
    )[number % 2]
    people = _people(answer, other)
    return {
        "question_type": kind,
        "multiple_choice_answer": answer,
        "answers": [
            {"answer": said, "answer_confidence": "yes" if said == answer else "maybe", "answer_id": person}
            for person, said in enumerate(people, start=1)
        ],
        "image_id": 262_148 + number // 2,
        "answer_type": "number",
        "question_id": 262_148_000 + number,
        "question": question,
        "image": _png(page),
    }


_ROWS: dict[str, Callable[[int], Row]] = {
    "docvqa": _docvqa,
    "ocrbench": _ocrbench,
    "textvqa": _textvqa,
    "chartqa": _chartqa,
    "textcaps": _textcaps,
    "mmbench": _mmbench,
    "gqa": _gqa,
    "vqav2": _vqav2,
}


def _page(kind: Kind, number: int) -> Page:
    entries = (4, 4) if kind == "chart" else (4, 6)
    spec = PageSpec(kind=kind, width=WIDTH, height=HEIGHT, entries=entries, font_size=(18, 20))
    return make_page("eval", spec, 900_000 + number)  # far from the pages that tasks ask about


def _asked(kind: Kind, number: int) -> tuple[Page, tuple[str, str]]:
    """Two questions per page: (page, (key, value))."""
    page = _page(kind, number // 2)
    return page, page.pairs[number % 2]


def _people(answer: str, other: str) -> list[str]:
    """Ten answers of which two differ, so that scores are not only 0 and 1."""
    return [answer] * (ANSWERS - 2) + [other] * 2


def _png(page: Page) -> Row:
    stream = BytesIO()
    page.image.convert("RGB").save(stream, format="PNG")
    return {"bytes": stream.getvalue(), "path": None}
