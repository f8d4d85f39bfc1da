"""What only a GPU can show. Run with `pytest -m gpu`.

GPU_TESTS_ON=cpu runs most of it on a CPU, which shows that the tests themselves are right: a fault in them costs the
little time that a GPU is there for. `recipes/bench/gpu.py --dry` does this.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
import transformers

from nuggets_trainer.engine import flex, log_probs, packed
from nuggets_trainer.engine.compiled import PIECES, WHOLE_LAYERS
from nuggets_trainer.engine.log_probs import LogProbEngine
from nuggets_trainer.engine.precision import describe_difference
from tests.support.architectures import ARCHITECTURES, random_model
from tests.support.models import tiny_model
from tests.support.oracle import mean_log_prob
from tests.support.segments import VOCAB, random_prefix, random_segments

DEVICE = os.environ.get("GPU_TESTS_ON", "cuda")
ON_CUDA_ALONE = pytest.mark.skipif(DEVICE != "cuda", reason="only CUDA has it")

pytestmark = [
    pytest.mark.gpu,
    # torch 2.11, when it compiles: as an error it would make the engine give up the packed path.
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def device(monkeypatch):
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if DEVICE == "cpu":  # as on a GPU, where long jobs compile parts
        monkeypatch.setattr(log_probs, "compiling_pays", lambda model, num_tokens: num_tokens > 0)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_log_probs_on_cuda_equal_those_on_the_cpu(name):
    model, prefix, segments = random_model(name), random_prefix(), random_segments(17, seed=1)
    expected = [mean_log_prob(model, prefix + s.ids[: s.start], s.ids[s.start :]) for s in segments]
    engine = LogProbEngine(model.to(DEVICE))
    assert engine.choose_path([(prefix, segments[:3])]) == ARCHITECTURES[name][2]
    found = engine.score(prefix, segments)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)  # float32 matrix products in another order


@pytest.mark.parametrize("names", [PIECES, WHOLE_LAYERS], ids=["pieces", "layers"])
@pytest.mark.parametrize("tokens_per_batch", [200, 1000, None])
def test_compiled_flex_attention_and_layers(tokens_per_batch, names):
    # Heads of 32 dimensions: below 16 flex attention has no kernel, and another one is taken.
    model, prefix, segments = tiny_model("qwen2", VOCAB, 128), random_prefix(), random_segments(40, seed=1)
    expected = [mean_log_prob(model, prefix + s.ids[: s.start], s.ids[s.start :]) for s in segments]
    engine = LogProbEngine(model.to(DEVICE), tokens_per_batch)
    engine.compiled_names = names
    assert engine.choose_path([(prefix, segments[:3])], num_tokens=10**9) == "packed" and engine.compiles
    np.testing.assert_allclose(engine.score(prefix, segments), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("head_dim", [16, 64, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flex_attention_of_all_head_dimensions(head_dim, dtype):
    """The kernel's tiles are chosen by these two."""
    model = tiny_model("llama", VOCAB, 4 * head_dim).to(DEVICE, dtype)
    prefix, segments = random_prefix(300), random_segments(40, seed=1)
    engine = LogProbEngine(model)
    assert engine.choose_path([(prefix, segments[:3])]) == "packed"
    expected = engine.score_plainly([(prefix, segments)])[0]
    assert describe_difference(engine.score(prefix, segments), expected, engine.tolerances(segments)) is None


@pytest.mark.parametrize("name", ["Gemma2", "GptOss"])
def test_soft_caps_and_sinks_take_flex_attention(name, monkeypatch):
    """They ran a dozen kernels for each piece and layer."""
    heads = {"head_dim": 64, "sliding_window": 16, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": VOCAB}
    experts = {} if name == "Gemma2" else {"num_local_experts": 4}
    config = getattr(transformers, f"{name}Config")(**heads, **sizes, **experts, initializer_range=0.3)
    # Some versions of transformers take `sdpa` for Gemma 2, which ignores soft-caps.
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(DEVICE).eval()
    monkeypatch.setattr(flex, "eager_loop", None)
    prefix, segments = random_prefix(), random_segments(17, seed=1)
    engine = LogProbEngine(model)
    assert engine.choose_path([(prefix, segments[:3])]) == "packed"
    expected = engine.score_plainly([(prefix, segments)])[0]
    np.testing.assert_allclose(engine.score(prefix, segments), expected, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*TensorFloat32")
def test_tf32_of_training_does_not_reach_the_scores():
    model, prefix, segments = tiny_model("llama", VOCAB, 256).to(DEVICE), random_prefix(), random_segments(9, seed=1)
    expected = LogProbEngine(model).score(prefix, segments)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        engine = LogProbEngine(model)
        found = engine.score(prefix, segments)
    finally:
        torch.set_float32_matmul_precision(before)
    assert engine.path == "packed"
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@ON_CUDA_ALONE
def test_no_row_waits_for_the_device():
    """Torch raises where the host would wait; a call waits once, when it reads its log-probs."""
    model, prefix, segments = tiny_model("llama", VOCAB, 128).to(DEVICE), random_prefix(), random_segments(40, seed=1)
    engine = LogProbEngine(model, tokens_per_batch=256, path="packed")
    engine.score(prefix, segments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "_means", lambda *_: [[0.0]])
        torch.cuda.set_sync_debug_mode("error")
        try:
            engine.score(prefix, segments)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@ON_CUDA_ALONE
def test_the_token_budget_is_found_from_free_memory():
    engine = LogProbEngine(tiny_model("llama", VOCAB).to(DEVICE))
    engine.score(random_prefix(), random_segments(3, seed=1))
    assert engine.tokens_per_batch == 16384  # a tiny model leaves all memory free
