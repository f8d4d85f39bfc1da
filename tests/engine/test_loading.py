"""A model and its tokenizer load by name; a name without a model gets a clear error."""

from __future__ import annotations

import pytest

from nuggets_trainer.engine.loading import load_scorer


def test_a_missing_model_gets_a_short_error():
    """Transformers' own error took several lines about connections."""
    with pytest.raises(
        OSError, match="There is no model 'no/where': there is no such directory.* `hf download no/where`"
    ) as raised:
        load_scorer("no/where")
    assert "\n" not in str(raised.value)


def test_the_model_of_the_demo_loads_by_name():
    model, tokenizer = load_scorer("nuggets-demo/model")
    assert model.config.vocab_size >= len(tokenizer)
    assert tokenizer("red", add_special_tokens=False)["input_ids"]
