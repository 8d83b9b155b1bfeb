"""The engine with the full cache gives the tokens of `model.generate`: every family, every way to end."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor

from sparsemm.cache import RaggedCache
from sparsemm.engine.generate import Engine
from sparsemm.engine.select import Selector
from sparsemm.methods.base import Method
from sparsemm.models.base import LoadedModel, Prompt
from sparsemm.models.llava_next import LlavaNext
from sparsemm.models.qwen2_5_vl import Qwen2_5_VL
from sparsemm.models.qwen2_vl import Qwen2VL
from sparsemm.models.small import FAMILIES, save_small
from sparsemm.tasks.pages import PageSpec, make_page

NEW = 12
CLASSES = {"llava_next_vicuna": "LlavaNext", "llava_next_mistral": "LlavaNext"}
CLASSES |= {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL"}
ADAPTERS = {"LlavaNext": LlavaNext, "Qwen2VL": Qwen2VL, "Qwen2_5_VL": Qwen2_5_VL}
ASKED = [
    [((6, 4),), "What is the number?"],
    [((15, 10),), "Provide all the OCR results of this image."],
    [((10, 17), (8, 6)), "Which word is in both?"],
]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(family)
    save_small(family, folder)
    return folder


@pytest.fixture(scope="module")
def load(family, folder):
    def load(attention: str = "sdpa", dtype: str = "float32") -> LoadedModel:
        adapter = ADAPTERS[CLASSES[family]](name=family, path=str(folder), dtype=dtype, attention=attention)
        return adapter.load(torch.device("cpu"))

    return load


@pytest.fixture(scope="module")
def ours(load) -> LoadedModel:
    return load()


@pytest.fixture
def loaded(ours, monkeypatch) -> LoadedModel:
    """Without end tokens and penalty: a test sets its own, and they go when it ends."""
    monkeypatch.setattr(ours, "eos_ids", (-1,))
    monkeypatch.setattr(ours, "repetition_penalty", 1.0)
    return ours


@pytest.fixture(scope="module")
def plain(family, folder):
    """transformers' own model."""

    def load(attention: str = "sdpa"):
        cls = getattr(transformers, f"{CLASSES[family]}ForConditionalGeneration")
        return cls.from_pretrained(folder, attn_implementation=attention).eval()

    return load


@pytest.fixture(scope="module")
def theirs(plain):
    return plain()


@pytest.fixture(scope="module")
def prompts(ours) -> list[Prompt]:
    """One image, one larger image, two images: three lengths."""
    made = [ours.prompt([page(*size) for size in sizes], question) for sizes, question in ASKED]
    assert len({prompt.tokens for prompt in made}) == len(ASKED)
    return made


@pytest.fixture(scope="module")
def cells(full, make_method) -> list[Method]:
    some = [("snapkv", 12), ("adakv", 9), ("pyramidkv", 20), ("random", 30), ("window", 8)]
    return [full, *(make_method(*one) for one in some)]


def page(width: int, height: int) -> Image.Image:
    spec = PageSpec("document", 16 * width, 16 * height, (1, 6), (10, 12))
    return make_page("train", spec, width).image.resize((10 * width, 10 * height))


def batched(loaded: LoadedModel, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
    """Left-padded, as the processors make batches; without position ids, which generate() makes itself."""
    longest, pad = max(prompt.tokens for prompt in prompts), loaded.tokenizer.pad_token_id
    inputs: dict[str, Tensor] = {}
    for name in prompts[0].inputs:
        tensors = [prompt.inputs[name] for prompt in prompts]
        if name == "position_ids":
            continue
        if name in ("input_ids", "mm_token_type_ids"):
            fill = pad if name == "input_ids" else 0
            tensors = [torch.nn.functional.pad(t, (longest - t.shape[1], 0), value=fill) for t in tensors]
        if name == "pixel_values" and tensors[0].dim() == 5:  # LLaVA's tiles, as many as the most
            most = max(t.shape[1] for t in tensors)
            tensors = [torch.nn.functional.pad(t, (0, 0) * 3 + (0, most - t.shape[1])) for t in tensors]
        inputs[name] = torch.cat(tensors)
    padding = torch.tensor([longest - prompt.tokens for prompt in prompts])
    return {**inputs, "attention_mask": (torch.arange(longest) >= padding[:, None]).long()}


def generate(
    model, loaded: LoadedModel, prompts: Sequence[Prompt], cache=None, **settings
) -> list[list[int]]:
    """What generate() adds to the prompts, with settings as the engine has them."""
    inputs = batched(loaded, prompts)
    given = {"do_sample": False, "max_new_tokens": NEW, "repetition_penalty": 1.0, "eos_token_id": [-1]}
    given |= {"pad_token_id": loaded.tokenizer.pad_token_id, "past_key_values": cache, **settings}
    if "stop_strings" in given:
        given["tokenizer"] = loaded.tokenizer
    with torch.inference_mode():
        out = model.generate(**inputs, **given)
    return out[:, inputs["input_ids"].shape[1] :].tolist()


def alone(model, loaded: LoadedModel, prompts: Sequence[Prompt], **settings) -> list[tuple[int, ...]]:
    """Each prompt by itself, without its end token."""
    ends = settings.get("eos_token_id", [])
    rows = [generate(model, loaded, [prompt], **settings)[0] for prompt in prompts]
    return [tuple(row[:-1] if row[-1] in ends else row) for row in rows]


def answers(
    loaded: LoadedModel, prompts: Sequence[Prompt], full: Method, **settings
) -> list[tuple[int, ...]]:
    """The engine's answers to prompts that are decoded together."""
    return [row[0].token_ids for row in Engine(loaded, [full], NEW, **settings).answer(prompts)]


def piece(loaded: LoadedModel, row: Sequence[int], length: int) -> str:
    """Up to `length` characters from inside an answer, wherever its tokens begin and end."""
    text = loaded.tokenizer.decode(row)
    places = [(size, at) for size in range(length, 0, -1) for at in range(3, len(text) - size - 3)]
    return next(found for size, at in places if "\ufffd" not in (found := text[at : at + size]))


def test_the_full_cache_equals_generate(loaded, theirs, prompts, full):
    expected = alone(theirs, loaded, prompts)
    assert answers(loaded, prompts, full) == expected
    assert [answers(loaded, [prompt], full)[0] for prompt in prompts] == expected
    assert len(set(expected)) == len(prompts)  # the prompts do matter


def test_prompts_decoded_together_equal_a_padded_batch_of_generate(loaded, theirs, prompts, full):
    together = generate(theirs, loaded, prompts)
    assert answers(loaded, prompts, full) == [tuple(row) for row in together]
    cache = RaggedCache(Selector([full], loaded.shape), loaded.shape.layers)
    assert generate(loaded.model, loaded, prompts, cache) == together


@pytest.mark.parametrize("penalty", [1.05, 1.5, 0.7])
def test_a_repetition_penalty_equals_generate(loaded, theirs, prompts, full, monkeypatch, penalty):
    """Prompts are given to generate() alone: in a padded batch it penalises the pad token too."""
    monkeypatch.setattr(loaded, "repetition_penalty", penalty)
    expected = alone(theirs, loaded, prompts, repetition_penalty=penalty)
    assert answers(loaded, prompts, full) == expected
    if penalty != 1.05:
        assert expected != alone(theirs, loaded, prompts)


def test_several_end_tokens_equal_generate(loaded, theirs, prompts, full, monkeypatch):
    free = alone(theirs, loaded, prompts)
    ends = [free[0][3], free[2][5]]
    monkeypatch.setattr(loaded, "eos_ids", tuple(ends))
    expected = alone(theirs, loaded, prompts, eos_token_id=ends)
    assert answers(loaded, prompts, full) == expected
    assert len(expected[0]) <= 3 and len(expected[2]) <= 5


def test_stop_strings_equal_generate(loaded, theirs, prompts, full):
    free = alone(theirs, loaded, prompts)
    stops = [piece(loaded, row, length) for row, length in zip(free, (3, 1, 4), strict=True)] + ["never said"]
    expected = alone(theirs, loaded, prompts, stop_strings=stops)
    assert answers(loaded, prompts, full, stop_strings=stops) == expected
    assert all(len(short) < NEW for short in expected)
    for (answer,) in Engine(loaded, [full], NEW, stop_strings=stops).answer(prompts):
        text = loaded.text(answer.token_ids, answer.stop_strings)
        assert not [stop for stop in stops if stop in text]
        assert loaded.tokenizer.decode(answer.token_ids).strip().startswith(text)


def test_all_settings_at_once_equal_generate_however_rows_are_chunked(
    loaded, theirs, prompts, full, monkeypatch
):
    monkeypatch.setattr(loaded, "repetition_penalty", 1.3)
    free = alone(theirs, loaded, prompts, repetition_penalty=1.3)
    ends, stops = [free[0][4], free[0][7]], [piece(loaded, free[2], 3)]
    monkeypatch.setattr(loaded, "eos_ids", tuple(ends))
    settings = {"repetition_penalty": 1.3, "eos_token_id": ends, "stop_strings": stops}
    expected = alone(theirs, loaded, prompts, **settings)
    assert answers(loaded, prompts, full, stop_strings=stops) == expected
    assert min(map(len, expected)) < NEW
    for fixed_rows in (1, 2, 5):  # with 2 and 5, empty rows stand beside real ones
        assert answers(loaded, prompts, full, stop_strings=stops, fixed_rows=fixed_rows) == expected


def together_and_alone(loaded: LoadedModel, prompts: Sequence[Prompt], cells: Sequence[Method], **settings):
    """Answers [prompt][cell], once all in one call and once each in its own."""
    settings = {"stop_strings": ["e"], **settings}
    together = Engine(loaded, cells, NEW, **settings).answer(prompts)
    separate = [Engine(loaded, [cell], NEW, **settings) for cell in cells]
    alone = [[engine.answer([prompt])[0][0] for engine in separate] for prompt in prompts]
    return [[[one.token_ids for one in row] for row in rows] for rows in (together, alone)]


def test_cells_answered_together_equal_each_alone(loaded, prompts, cells, monkeypatch):
    monkeypatch.setattr(loaded, "repetition_penalty", 1.2)
    together, alone = together_and_alone(loaded, prompts, cells)
    assert together == alone
    assert len({tokens for row in together for tokens in row}) > len(prompts)


def test_cells_answered_together_equal_each_alone_in_bfloat16(load, cells, monkeypatch):
    """The steps of a cell alone have 7 empty rows, which take part in nothing."""
    loaded = load(dtype="bfloat16")
    monkeypatch.setattr(loaded, "repetition_penalty", 1.2)
    prompts = [loaded.prompt([page(*size) for size in sizes], question) for sizes, question in ASKED]
    together, alone = together_and_alone(loaded, prompts, cells, fixed_rows=8)
    assert together == alone


def test_eager_attention_equals_generate_with_eager_attention(load, plain, prompts, full, monkeypatch):
    loaded = load("eager")
    monkeypatch.setattr(loaded, "eos_ids", (-1,))
    monkeypatch.setattr(loaded, "repetition_penalty", 1.1)
    expected = alone(plain("eager"), loaded, prompts, repetition_penalty=1.1)
    assert answers(loaded, prompts, full) == expected
