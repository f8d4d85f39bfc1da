"""A checkpoint is resumed with the settings that it was written with, however a version spells them."""

from __future__ import annotations

import json
import logging

from nuggets_trainer.store.selection_file import changed_settings


def settings(sha256: str, version: str = "5.23.0", **config) -> dict[str, str]:
    config = {"hidden_size": 64, "rope_parameters": {"rope_theta": 10000.0}, **config}
    written_with = {"transformers": version, "config": config}
    return {"rule": "top_k=9", "model_config_sha256": sha256, "model_config": json.dumps(written_with)}


def test_another_spelling_of_the_config_is_no_change():
    """A resumed job of Phi, GLM-4 or gpt-oss was refused after an upgrade of transformers."""
    now = settings("b")
    assert changed_settings(settings("a", "5.16.1", partial_rotary_factor=0.5), now) == []
    (change,) = changed_settings({**settings("a", "5.16.1"), "rule": "top_k=8"}, now)
    assert change == "rule was top_k=8 and is now top_k=9"


def test_another_config_is_a_change():
    expected = ["model_config_sha256 was a and is now b"]
    assert changed_settings(settings("a", "5.16.1", hidden_size=65), settings("b")) == expected
    assert changed_settings(settings("a", rope_parameters={"rope_theta": 1.0}), settings("b")) == expected
    assert changed_settings(settings("a", another_entry=1), settings("b")) == expected  # by the same version


def test_an_earlier_checkpoint_is_resumed_with_a_warning(caplog):
    earlier = settings("a")
    del earlier["model_config"]
    with caplog.at_level(logging.WARNING, logger="nuggets_trainer"):
        assert changed_settings(earlier, settings("a")) == [] and not caplog.text
        assert changed_settings(earlier, settings("b")) == []
    assert "Make sure that the model is the same" in caplog.text
