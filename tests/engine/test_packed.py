"""A call of the packed path: it waits for the device at its end alone, and compiles no kernel twice.

Tensors on the `meta` device have no values: whatever would wait for the device to read one fails there.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from nuggets_trainer.engine import flex, lm_head, packed
from nuggets_trainer.engine.attention import PackedRow, Prefix, current_row, one_token_row, sdpa_loop
from nuggets_trainer.engine.compiled import WHOLE_LAYERS
from nuggets_trainer.engine.flex import flex_row
from nuggets_trainer.engine.log_probs import LogProbEngine
from nuggets_trainer.engine.packed import score_packed, shared_prefix_model, splitting_tokens
from nuggets_trainer.engine.packing import Piece
from tests.support.architectures import VOCAB, random_model
from tests.support.segments import random_prefix, random_segments

META = torch.device("meta")


@pytest.fixture
def on_meta(monkeypatch):
    """Log-probs of each call, where a call would wait for them; flex attention checks devices and computes nothing."""
    log_probs: list[torch.Tensor] = []

    def means(token_log_probs, pieces, prefixed):
        log_probs.append(token_log_probs)
        return []

    def no_flex(query, key, value, block_mask, **_):
        assert {x.device for x in (key, value, block_mask.kv_indices, block_mask.kv_num_blocks)} == {query.device}
        return torch.empty_like(query)

    monkeypatch.setattr(packed, "_means", means)
    monkeypatch.setattr(flex, "flex_attention", no_flex)
    monkeypatch.setattr(lm_head, "_can_be_cut", lambda head: True)
    return log_probs


def some_prefixed(number=3):
    return [(random_prefix(20 + n), random_segments(9, seed=n)) for n in range(number)]


@pytest.mark.parametrize("name", ["Llama", "Gemma 3", "Qwen2", "Phi", "Mistral (sliding window)"])
def test_a_call_waits_for_the_device_only_at_its_end(name, on_meta):
    """It waited ten times for each row, which left the device idle while the host prepared the next one."""
    model, prefixed = random_model(name).to(META), some_prefixed()
    with torch.no_grad():
        score_packed(model, prefixed, 128, flex_row)
    num_targets = sum(s.num_completion_tokens for _, segments in prefixed for s in segments)
    assert [(x.device, x.shape) for x in on_meta] == [(META, (num_targets,))]
    with pytest.raises(NotImplementedError):
        on_meta[0].cpu()  # this would have shown


def test_layers_on_several_devices_each_have_their_mask(on_meta):
    """The mask lay on the first layer's device, and the positions on the model's: the path was refused."""
    model, prefixed = random_model("Llama"), some_prefixed(2)
    decoder = model.base_model
    for part in (decoder.layers[1], decoder.norm, model.lm_head):
        part.to(META)

    def to_meta(module, args, kwargs):
        return torch.utils._pytree.tree_map_only(torch.Tensor, lambda x: x.to(META), (args, kwargs))

    decoder.layers[1].register_forward_pre_hook(to_meta, with_kwargs=True)
    with torch.no_grad():
        score_packed(model, prefixed, 128, flex_row)
    assert model.device.type == "cpu" and [x.device for x in on_meta] == [META]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
def test_no_kernel_is_compiled_twice(monkeypatch):
    """Counted by torch itself: masks and prefixes differ from call to call, and the shapes are few."""
    torch._dynamo.reset()
    shapes = set()

    def attention(query, key, value, **kwargs):
        shapes.add((query.shape[2], key.shape[2]))
        return compiled(query, key, value, **kwargs)

    compiled = torch.compile(flex.flex_attention, backend="eager", dynamic=False)
    monkeypatch.setattr(flex, "flex_attention", attention)
    model, rng = random_model("Llama"), np.random.default_rng(0)
    before = counters["stats"]["unique_graphs"]
    with torch.no_grad():
        for seed in range(5):
            prefixed = [(random_prefix(int(rng.integers(5, 60))), random_segments(9, seed=seed)) for _ in range(2)]
            score_packed(model, prefixed, 256, flex_row)
    graphs = counters["stats"]["unique_graphs"] - before
    assert 1 < graphs == len(shapes) <= 6 and not counters["recompiles"]


class OnCuda(torch.Tensor):
    """A tensor that says that it is on a GPU."""

    is_cuda = True


@pytest.mark.parametrize(("head_dim", "fits"), [(8, False), (16, True)])
def test_small_heads_take_another_kernel_on_cuda(head_dim, fits, monkeypatch):
    """Flex attention has no CUDA kernel below 16 dimensions a head: such models took the cached path."""
    monkeypatch.setattr(flex, "_compiled_flex", lambda: lambda query, *_, **__: torch.full_like(query, 7.0))
    row = PackedRow([Piece(0, None, 3, 0), Piece(0, 0, 2, 3)], [Prefix(3, 2)], flex_row)
    states = torch.randn(1, 2, 5, head_dim).as_subclass(OnCuda)
    layer = SimpleNamespace()
    found = flex_row(row, layer, states, states, states, None, {})
    expected = sdpa_loop(row, layer, *[states.as_subclass(torch.Tensor)] * 3, None, {})
    assert bool((found == 7).all()) is fits
    assert torch.equal(found.as_subclass(torch.Tensor), expected) is not fits


@pytest.mark.parametrize(
    ("implementation", "argument", "kernel"),
    [
        ("sdpa", "softcap", None),
        ("sdpa", "s_aux", None),
        ("flash_attention_2", "softcap", "flex"),
        ("flash_attention_2", "position_bias", None),
        ("eager", "softcap", "flex"),
        ("eager", "position_bias", "eager_loop"),
    ],
)
def test_arguments_beyond_a_kernel_are_refused_or_left_to_eager(implementation, argument, kernel, monkeypatch):
    """A model whose own attention ignores a soft-cap must not be scored with one."""
    monkeypatch.setattr(flex, "eager_loop", lambda row, module, query, *_: "eager_loop")
    monkeypatch.setattr(flex, "flex_attention", lambda query, *_, **__: query)
    row = PackedRow([Piece(0, None, 3, 0)], [Prefix(3, 1)], flex_row, implementation)
    states = torch.randn(1, 2, 3, 16)
    arguments = (row, SimpleNamespace(), *[states] * 3, None, {argument: 30.0})
    if kernel is None:
        with pytest.raises(NotImplementedError, match=f"`{argument}`: load the model with `attn_implementation=eager"):
            flex_row(*arguments)
        return
    found = flex_row(*arguments)
    assert found == "eager_loop" if kernel == "eager_loop" else torch.equal(found, states.transpose(1, 2))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_autocast_reaches_flex_attention_before_its_tiles_are_chosen(monkeypatch):
    """Queries came in float32: their products in bfloat16 got the small tiles of float32, and prefixes more room."""
    seen, attention = [], flex.flex_attention

    def recorded(query, key, value, **options):
        seen.append((query.dtype, key.dtype, value.dtype))
        return attention(query, key, value, **options)

    monkeypatch.setattr(flex, "flex_attention", recorded)
    model, prefixed = random_model("Llama"), some_prefixed(2)
    with LogProbEngine(model, autocast_dtype=torch.bfloat16).scoring():
        found = score_packed(model, prefixed, 100, flex_row)
        expected = score_packed(model, prefixed, 100, sdpa_loop)
    assert seen and set(seen) == {(torch.bfloat16,) * 3}
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), rtol=0, atol=0.1)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_half_as_many_keys_in_a_block_change_nothing(monkeypatch):
    """The switch that a GPU has to decide: fewer keys are visited, and the log-probs are the same."""
    visited, from_blocks = [], flex.BlockMask.from_kv_blocks

    def recorded(num_blocks, *args, BLOCK_SIZE, **options):  # noqa: N803 - torch's name
        visited.append(int(num_blocks.sum()) * BLOCK_SIZE[0] * BLOCK_SIZE[1])
        return from_blocks(num_blocks, *args, BLOCK_SIZE=BLOCK_SIZE, **options)

    monkeypatch.setattr(flex.BlockMask, "from_kv_blocks", recorded)
    model, prefixed, found = random_model("Mistral (sliding window)"), some_prefixed(2), []
    for keys in (128, 64):
        monkeypatch.setattr(flex, "KEY_BLOCK", keys)
        with torch.no_grad():
            found.append(np.concatenate(score_packed(model, prefixed, 256, flex_row)))
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-5)
    half = len(visited) // 2
    assert 0 < sum(visited[half:]) < sum(visited[:half])
    assert flex.kernel_options(torch.bfloat16, 64)["BLOCK_N"] == 64


def test_the_check_parts_a_prefix_from_its_segments():
    prefixed = some_prefixed(2)
    assert splitting_tokens(torch.device("cpu"), prefixed) == 1
    tokens = splitting_tokens(torch.device("cuda"), prefixed)
    longest = max(len(ids) + sum(len(s.ids) - 1 for s in segments) for ids, segments in prefixed)
    assert tokens == longest - 1 < 512
    assert splitting_tokens(torch.device("cuda"), [(random_prefix(600), random_segments(2, seed=1))]) == 512


@pytest.mark.parametrize("name", ["Llama", "Gemma 2", "GPT-2", "DeepSeek-V3"])
def test_a_rank_inside_a_row_can_join_the_pass_of_another(name):
    """One token under packed attention: it was refused, and the rank that waited ended the job."""
    model = random_model(name)
    token = torch.zeros(1, 1, dtype=torch.int64)
    with torch.no_grad(), shared_prefix_model(model), current_row(one_token_row()):
        assert model(input_ids=token).logits.shape == (1, 1, VOCAB)
        assert model.base_model(input_ids=token).last_hidden_state.shape[:2] == (1, 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("name", "num_graphs"), [("Llama", 2), ("Gemma 2", 3)])
def test_a_whole_layer_is_one_graph(name, num_graphs, monkeypatch):
    """It was five: the host prepared each for longer than a small model's layer takes on a GPU."""
    torch._dynamo.reset()
    model, prefixed = random_model(name), some_prefixed(2)
    graphs = []

    def recorded(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = partial(torch.nn.Module.compile, backend=recorded)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **options: compiled(module, **options))
    monkeypatch.setattr(lm_head, "compiled_in_use", lambda function: function)
    monkeypatch.setattr(packed, "_kernel", lambda *_: flex_row)
    engine = LogProbEngine(model, 128, path="packed")
    expected = np.concatenate(engine.score_prefixed(prefixed))
    counters.clear()
    engine.compiles, engine.compiled_names = True, WHOLE_LAYERS
    for _ in range(2):
        found = np.concatenate(engine.score_prefixed(prefixed))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        assert not counters["graph_break"] and len(graphs) == num_graphs
    # Other passes have masks, padding or a cache, for each of which torch would compile the layers again.
    engine.score_plainly(prefixed)
    engine.score_rows(prefixed[0][1])
    engine.embed([[1, 2, 3], [4, 5]])
    assert len(graphs) == num_graphs


def test_no_call_is_compiled_anew(monkeypatch):
    """Setting up `torch.compile` took longer on each call than what the compiled layers saved."""
    model, compiled = random_model("Llama"), []
    compile_module = torch.nn.Module.compile

    def recorded(module, **kwargs):
        compiled.append(module)
        compile_module(module, backend="eager", **kwargs)

    monkeypatch.setattr(torch.nn.Module, "compile", recorded)
    engine = LogProbEngine(model, path="packed")
    prefixed = some_prefixed(1)
    expected = engine.score_prefixed(prefixed)
    engine.compiles = True
    monkeypatch.setattr(lm_head, "compiled_in_use", lambda function: function)
    for _ in range(3):
        np.testing.assert_allclose(engine.score_prefixed(prefixed)[0], expected[0], rtol=0, atol=1e-5)
    assert len(compiled) == len(set(compiled)) == 2 * 3 + 1
