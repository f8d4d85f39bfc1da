"""Weights that bitsandbytes packs anew for a CPU: hashing them would damage them."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from nuggets_trainer.demo import resolve_demo
from nuggets_trainer.engine.precision import weights_as_loaded
from nuggets_trainer.store.fingerprint import weights_hash


@pytest.fixture
def quantized():
    """The demo's model with 4-bit weights, on a machine where a forward pass packs them anew."""
    modules = pytest.importorskip("bitsandbytes.nn.modules")
    if not modules.has_avx512bf16():
        pytest.skip("bitsandbytes packs weights anew only on a CPU with AVX512-BF16")
    config = BitsAndBytesConfig(load_in_4bit=True)
    return AutoModelForCausalLM.from_pretrained(resolve_demo("nuggets-demo/model"), quantization_config=config).eval()


IDS = torch.arange(10, 30)[None]


def test_weights_stay_as_they_were_loaded(quantized):
    found = weights_hash(quantized.state_dict())
    with weights_as_loaded(quantized), torch.no_grad():
        first = quantized(IDS).logits
        assert weights_hash(quantized.state_dict()) == found
        torch.testing.assert_close(quantized(IDS).logits, first)


def test_weights_that_were_packed_anew_are_refused(quantized):
    with torch.no_grad():
        quantized(IDS)
    with (
        pytest.raises(ValueError, match="Load the model again, and score before any other forward pass"),
        weights_as_loaded(quantized),
    ):
        pass
