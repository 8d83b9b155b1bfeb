"""The decode step that is captured on a GPU: the same tokens as eager decoding, and no look at the host."""

import pytest
import torch
from sparsemm.kernels.backends import TORCH, resolve
from sparsemm.kernels.static_arena import LARGE, NOWHERE, empty_like, fill, roomy, shape_of

from sparsemm.engine.generate import Engine
from sparsemm.engine.graph import TOGETHER, GraphDecoder, Step
from sparsemm.models.llava_next import LlavaNext
from sparsemm.models.small import save_small

GPU = torch.cuda.is_available()


def engines(loaded, methods, tokens, **settings):
    """Eager decoding, and the step on its own buffers; captured where there is a GPU."""
    eager, graph = (Engine(loaded, methods, tokens, **settings) for _ in range(2))
    graph.graphs = GraphDecoder(loaded, graph.greedy, capture=loaded.device.type == "cuda")
    return eager, graph


@pytest.fixture(scope="module")
def methods(make_method, full):
    return [full, make_method("sparsemm", 9), make_method("snapkv", 12), make_method("adakv", 20)]


@pytest.mark.parametrize("fixed_rows", [None, 3])
def test_the_step_gives_the_tokens_of_eager_decoding(placed, placed_prompts, methods, fixed_rows):
    eager, graph = engines(placed, methods, TOGETHER + 4, fixed_rows=fixed_rows)
    expected = eager.answer(placed_prompts)
    assert graph.answer(placed_prompts) == expected
    assert graph.answer(placed_prompts[:1]) == expected[:1]
    assert max(len(one.token_ids) for answers in expected for one in answers) > 2


def test_the_step_works_on_arenas_with_a_list_of_chunks(placed, placed_prompts, make_method):
    """As on a GPU, with kernels; in Triton's interpreter where there is none."""
    eager, graph = engines(placed, [make_method("sparsemm", 9)], 4, backend="triton")
    assert graph.answer(placed_prompts[:1]) == eager.answer(placed_prompts[:1])


def test_stop_strings_and_penalties_are_those_of_eager_decoding(make_model, prompts, methods):
    loaded = make_model()
    loaded.repetition_penalty = 1.3
    plain = Engine(loaded, methods, 14).answer(prompts)
    text = loaded.text(plain[0][0].token_ids)
    eager, graph = engines(loaded, methods, 14, stop_strings=(text[2:4] or "a",))
    assert graph.answer(prompts) == eager.answer(prompts)


def test_a_llava_model_decodes_by_the_step(tmp_path, pages, full):
    save_small("llava_next_mistral", tmp_path)
    adapter = LlavaNext(name="small", path=str(tmp_path), dtype="float32", attention="sdpa")
    loaded = adapter.load(torch.device("cuda" if GPU else "cpu"))
    eager, graph = engines(loaded, [full], 6)
    prompt = loaded.prompt(pages[0], "what?")
    assert graph.answer([prompt]) == eager.answer([prompt])


def test_a_step_never_waits_for_the_device(placed, placed_prompts, methods, monkeypatch, no_look_at_the_host):
    _, graph = engines(placed, methods, 6, backend="torch")
    run = Step.run

    def watched(self):
        with no_look_at_the_host():
            run(self)

    monkeypatch.setattr(Step, "run", watched)
    graph.answer(placed_prompts)


def test_the_watch_of_this_test_sees_what_it_must(no_look_at_the_host):
    with pytest.raises(AssertionError, match="_local_scalar_dense"), no_look_at_the_host():
        torch.ones(1).item()
    chosen = torch.tensor([True, False, True])
    with pytest.raises(AssertionError, match="by a mask"), no_look_at_the_host():
        torch.ones(3)[chosen]
    with pytest.raises(AssertionError, match="lift_fresh"), no_look_at_the_host():
        torch.tensor([1])


def test_buffers_stay_where_they_are_from_prompt_to_prompt(placed, placed_prompts, methods):
    _, graph = engines(placed, methods, 5)
    graph.answer(placed_prompts[:1])
    (step,) = graph.graphs.steps.values()

    def addresses():
        arenas = [layer.arena for layer in step.rows.cache.layers]
        tensors = [
            getattr(arena, name) for arena in arenas for name in ("keys", "values", "lengths", "tokens")
        ]
        tensors += [step.rows.tokens, step.rows.positions, step.rows.clock, step.rows.answers]
        return [one.data_ptr() for one in tensors]

    before = addresses()
    graph.answer(placed_prompts[:1])
    assert list(graph.graphs.steps.values()) == [step]
    assert addresses() == before


def test_two_shapes_are_kept_and_no_more(placed, placed_prompts, methods):
    _, graph = engines(placed, methods, 3)
    for prompt in placed_prompts:
        graph.answer([prompt])
    assert len(graph.graphs.steps) == 2


@pytest.mark.skipif(not GPU, reason="only a captured step keeps addresses: it needs an NVIDIA GPU")
def test_a_step_that_is_kept_outlives_another(placed, placed_prompts, make_method):
    """C evicts A; what A left goes to others, and B is replayed."""
    methods = [make_method("sparsemm", 9)]
    eager, graph = engines(placed, methods, TOGETHER + 4)
    shapes = [placed_prompts[:1], placed_prompts[:2], placed_prompts]
    expected = [eager.answer(shape) for shape in shapes]
    for at in (0, 1):
        assert graph.answer(shapes[at]) == expected[at]
    kept = list(graph.graphs.steps.values())[1]
    assert graph.answer(shapes[2]) == expected[2]
    torch.cuda.empty_cache()
    junk = [torch.full((2**20,), float("nan"), device=placed.device) for _ in range(64)]
    assert graph.answer(shapes[1]) == expected[1]
    assert list(graph.graphs.steps.values())[-1] is kept
    del junk


def test_a_buffer_is_a_little_longer_than_needed():
    lengths = [*range(1, 70), *range(LARGE - 2, LARGE + 2), 3 * LARGE, 2**17 + 1, 1_048_577, 1_500_000]
    for length in lengths:
        assert length <= roomy(length) <= max(16, 1.5 * length)
        if length > LARGE:
            assert roomy(length) <= 1.125 * length
            assert len({roomy(one) for one in range(length, 2 * length, 997)}) <= 10, "few shapes"


def test_a_full_arena_refuses_before_it_is_written_to(placed, placed_prompts, methods):
    _, graph = engines(placed, methods, 3)
    graph.answer(placed_prompts[:1])
    (step,) = graph.graphs.steps.values()
    layer = step.rows.cache.layers[0]
    room = layer.arena.room
    for _ in range(room):
        step.go()
    held = layer.arena.keys.clone()
    with pytest.raises(RuntimeError, match="no room for another token" if GPU else "cannot grow"):
        step.go()
    with pytest.raises(RuntimeError, match="no room for another token"):
        layer.count(1)
    assert torch.equal(layer.arena.keys, held)


def test_an_error_gives_the_buffers_back(placed, placed_prompts, methods, monkeypatch):
    _, graph = engines(placed, methods, 3)
    graph.answer(placed_prompts[:1])

    def fail(self):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Step, "run", fail)
    with pytest.raises(torch.OutOfMemoryError):
        graph.answer(placed_prompts[1:2])
    assert not graph.graphs.steps


def test_without_a_gpu_graph_decoding_is_refused(loaded, full):
    with pytest.raises(
        ValueError, match=r"engine\.decode=graph: needs an NVIDIA GPU, but the model is on cpu"
    ):
        Engine(loaded, [full], 4, decode="graph")


def test_an_arena_is_copied_into_a_roomier_one():
    triton = resolve("triton", torch.device("cuda" if GPU else "cpu"), torch.float32, 16)

    def arena(lengths, backend=triton):
        total = sum(map(sum, lengths))
        with torch.device("cuda" if GPU else "cpu"):
            parts = torch.randn(2, total, 16)
            return backend.lay_out(*parts, torch.arange(total), torch.tensor(lengths), 4)

    large, small = arena([[257, 40], [3, 0]]), arena([[255, 41], [2, 1]])
    assert shape_of(large) == shape_of(small)
    static = fill(empty_like(large), large)
    queries = torch.randn(2, 4, 1, 16, device=large.keys.device)
    for source in (large, small):
        static = fill(static, source)
        assert torch.equal(triton.attend(static, queries, 0.3), triton.attend(source, queries, 0.3))
    assert int(static.work.chunks.max()) == NOWHERE
    assert shape_of(arena([[257, 40], [3, 0]], TORCH)) != shape_of(arena([[250, 50], [1, 200]], TORCH))
