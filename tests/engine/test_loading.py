"""A model and its tokenizer load by name; a name that leads nowhere says so."""

from __future__ import annotations

import pytest

from nuggets_trainer.engine.loading import load_scorer


def test_a_model_that_is_nowhere_is_told_in_short():
    """Transformers told of connections, over several lines."""
    with pytest.raises(OSError, match="There is no model 'no/where': no directory .* `hf download no/where`") as told:
        load_scorer("no/where")
    assert "\n" not in str(told.value)


def test_the_model_of_the_demo_loads_by_name():
    model, tokenizer = load_scorer("nuggets-demo/model")
    assert model.config.vocab_size >= len(tokenizer)
    assert tokenizer("red", add_special_tokens=False)["input_ids"]
