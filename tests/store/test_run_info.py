"""run.json says how scores came about, and no secret."""

from __future__ import annotations

from nuggets_trainer import NuggetsConfig
from nuggets_trainer.store.run_info import _without_secrets


def test_secrets_of_a_configuration_are_hidden():
    config = NuggetsConfig(scorer_model="x", scorer_model_init_kwargs='{"token": "hf_abc", "dtype": "float32"}')
    assert _without_secrets(config)["scorer_model_init_kwargs"] == {"token": "(not shown)", "dtype": "float32"}
