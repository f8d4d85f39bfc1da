"""What only a GPU can show. Run with `pytest -m gpu`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nuggets_trainer.engine.log_probs import LogProbEngine
from tests.support.architectures import ARCHITECTURES, random_model
from tests.support.models import tiny_model
from tests.support.oracle import mean_log_prob
from tests.support.segments import VOCAB, random_prefix, random_segments

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def cuda():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_log_probs_on_cuda_equal_those_on_the_cpu(name):
    model, prefix, segments = random_model(name), random_prefix(), random_segments(17, seed=1)
    expected = [mean_log_prob(model, prefix + s.ids[: s.start], s.ids[s.start :]) for s in segments]
    engine = LogProbEngine(model.to("cuda"))
    assert engine.choose_path([(prefix, segments[:3])]) == ARCHITECTURES[name][2]
    found = engine.score(prefix, segments)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)  # float32 matrix products in another order


@pytest.mark.parametrize("tokens_per_batch", [200, 1000, None])
def test_compiled_flex_attention_and_layers(tokens_per_batch):
    model, prefix, segments = tiny_model("qwen2", VOCAB), random_prefix(), random_segments(40, seed=1)
    expected = [mean_log_prob(model, prefix + s.ids[: s.start], s.ids[s.start :]) for s in segments]
    engine = LogProbEngine(model.to("cuda"), tokens_per_batch)
    assert engine.choose_path([(prefix, segments[:3])], num_tokens=10**9) == "packed" and engine.compiles
    np.testing.assert_allclose(engine.score(prefix, segments), expected, rtol=0, atol=1e-4)


def test_the_token_budget_is_found_from_free_memory():
    engine = LogProbEngine(tiny_model("llama", VOCAB).to("cuda"))
    engine.score(random_prefix(), random_segments(3, seed=1))
    assert engine.tokens_per_batch == 16384  # a tiny model leaves all memory free
