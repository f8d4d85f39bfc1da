"""What only a GPU can show. Run with `pytest -m gpu`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nuggets_trainer.engine import LogProbEngine
from tests.conftest import tiny_model
from tests.oracle import mean_log_prob
from tests.test_engine import VOCAB, random_prefix, random_segments


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_log_probs_on_cuda_equal_one_sequence_at_a_time_on_the_cpu(family):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    model, prefix, segments = tiny_model(family, VOCAB), random_prefix(), random_segments(17, seed=1)
    expected = [mean_log_prob(model, prefix + s.ids[: s.start], s.ids[s.start :]) for s in segments]
    found = LogProbEngine(model.to("cuda")).score(prefix, segments)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)  # float32 matrix products in another order
