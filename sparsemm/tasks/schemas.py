"""The benchmarks' columns and types, as published, and parquet files made of them."""

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]
TEXT, TEXTS = "string", ["string"]

# Column -> type, as in the features of a Hugging Face dataset: [x] is a list of x, a dict a struct.
SCHEMAS: dict[str, dict[str, Any]] = {
    "docvqa": {
        "questionId": TEXT, "question": TEXT, "question_types": TEXTS, "image": "image", "docId": "int64",
        "ucsf_document_id": TEXT, "ucsf_document_page_no": TEXT, "answers": TEXTS, "data_split": TEXT,
    },
    "ocrbench": {
        "dataset": TEXT, "question": TEXT, "question_type": TEXT, "answer": TEXTS, "image": "image",
    },
    "textvqa": {
        "image_id": TEXT, "question_id": "int32", "question": TEXT, "question_tokens": TEXTS,
        "image": "image", "image_width": "int32", "image_height": "int32", "flickr_original_url": TEXT,
        "flickr_300k_url": TEXT, "answers": TEXTS, "image_classes": TEXTS, "set_name": TEXT,
        "ocr_tokens": TEXTS,
    },
    "chartqa": {"type": TEXT, "question": TEXT, "answer": TEXT, "image": "image"},
    "textcaps": {
        "question_id": TEXT, "question": TEXT, "image": "image", "image_id": TEXT, "image_classes": TEXTS,
        "flickr_original_url": TEXT, "flickr_300k_url": TEXT, "image_width": "int64",
        "image_height": "int64", "set_name": TEXT, "image_name": TEXT, "image_path": TEXT,
        "caption_id": ["int64"], "caption_str": TEXTS, "reference_strs": TEXTS,
    },
    "mmbench": {
        "index": "int64", "question": TEXT, "hint": TEXT, "answer": TEXT, "A": TEXT, "B": TEXT, "C": TEXT,
        "D": TEXT, "category": TEXT, "image": "image", "source": TEXT, "L2-category": TEXT, "comment": TEXT,
        "split": TEXT,
    },
    "gqa": {
        "id": TEXT, "imageId": TEXT, "question": TEXT, "answer": TEXT, "fullAnswer": TEXT,
        "isBalanced": "bool", "groups": {"global": TEXT, "local": TEXT}, "entailed": TEXT,
        "equivalent": TEXT, "types": {"structural": TEXT, "semantic": TEXT, "detailed": TEXT},
        "semanticStr": TEXT,
    },
    "gqa_images": {"id": TEXT, "image": "image"},
    "vqav2": {
        "question_type": TEXT, "multiple_choice_answer": TEXT,
        "answers": [{"answer": TEXT, "answer_confidence": TEXT, "answer_id": "int64"}], "image_id": "int64",
        "answer_type": TEXT, "question_id": "int64", "question": TEXT, "image": "image",
    },
}  # fmt: skip
BENCHMARKS = tuple(name for name in SCHEMAS if name != "gqa_images")
# Where each file lies below the folder: by split, as on the hub.
FILES = {
    "docvqa": "DocVQA/validation-00000-of-00001.parquet",
    "ocrbench": "data/test-00000-of-00001.parquet",
    "textvqa": "data/validation-00000-of-00001.parquet",
    "chartqa": "data/test-00000-of-00001.parquet",
    "textcaps": "data/val-00000-of-00001.parquet",
    "mmbench": "en/dev-00000-of-00001.parquet",
    "gqa": "testdev_balanced_instructions/testdev-00000-of-00001.parquet",
    "gqa_images": "testdev_balanced_images/testdev-00000-of-00001.parquet",
    "vqav2": "vqav2_val/lite-00000-of-00001.parquet",
}


def write_table(table: str, rows: list[Row], folder: Path) -> None:
    """Write one table where its benchmark keeps it; images are {"bytes": ..., "path": None}."""
    import pyarrow
    from pyarrow import parquet

    columns = SCHEMAS[table]
    features = {name: _feature(kind) for name, kind in columns.items()}
    schema = pyarrow.schema(
        [(name, _arrow(kind)) for name, kind in columns.items()],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    file = folder / FILES[table]
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), file)


def _arrow(kind: Any) -> Any:
    import pyarrow

    if isinstance(kind, list):
        return pyarrow.list_(_arrow(kind[0]))
    if isinstance(kind, dict):
        return pyarrow.struct([(name, _arrow(inner)) for name, inner in kind.items()])
    if kind == "image":
        return pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    return pyarrow.type_for_alias(kind)


def _feature(kind: Any) -> Any:
    """As `datasets` writes it into a file's metadata."""
    if isinstance(kind, list):
        return {"feature": _feature(kind[0]), "_type": "List"}
    if isinstance(kind, dict):
        return {name: _feature(inner) for name, inner in kind.items()}
    return {"_type": "Image"} if kind == "image" else {"dtype": kind, "_type": "Value"}
