"""Every architecture of the table: the path that the engine takes, and its log-probs against the oracle's."""

from __future__ import annotations

import logging
import re

import numpy as np
import pytest
import torch
from transformers.utils import logging as transformers_logging

from nuggets_trainer.engine.flex import flex_row
from nuggets_trainer.engine.log_probs import LogProbEngine
from nuggets_trainer.engine.packed import score_packed
from tests.support.architectures import ARCHITECTURES, VOCAB, WINDOW, random_model
from tests.support.launch import ROOT
from tests.support.oracle import mean_log_prob
from tests.support.segments import random_prefix, random_segments

ON_EACH = pytest.mark.parametrize("name", list(ARCHITECTURES))
PATH_OF = {name: path for name, (_, _, path) in ARCHITECTURES.items()}


def expected_log_probs(model, prefix, segments):
    return np.array([mean_log_prob(model, prefix + s.ids[: s.start], s.ids[s.start :]) for s in segments])


@ON_EACH
def test_log_probs_and_wins_equal_the_oracles(name, caplog):
    transformers_logging.set_verbosity_error()  # "fast path is not available", once per kernel that is not installed
    model, segments = random_model(name), random_segments(9, seed=1)
    prefixes = [random_prefix(40), random_prefix(7)]
    zero, *one = [expected_log_probs(model, prefix, segments) for prefix in ([], *prefixes)]
    implementation = model.config._attn_implementation

    engine = LogProbEngine(model, tokens_per_batch=200)
    with caplog.at_level(logging.WARNING, logger="nuggets_trainer"):
        path = engine.choose_path([(prefix, segments[:3]) for prefix in prefixes])
    assert path == PATH_OF[name]
    assert (path == "packed") == (caplog.text == "")  # a slower path is not taken silently
    found_zero, *found = engine.score_prefixed([([], segments), *((prefix, segments) for prefix in prefixes)])
    assert model.config._attn_implementation == implementation  # as it was

    # 1e-5 nats per token: what float32 leaves, four orders below what a prefix changes in these models.
    for expected, log_probs in zip([zero, *one], [found_zero, *found], strict=True):
        np.testing.assert_allclose(log_probs, expected, rtol=0, atol=1e-5)
    gains = np.stack(one) - zero
    assert np.abs(gains).mean() > 0.05 and (gains > 0).any() and (gains < 0).any()
    differ = (np.stack(found) > found_zero) != (gains > 0)
    assert not (differ & (np.abs(gains) >= 2e-5)).any()

    # Embeddings are read from the decoder alone, without the hidden states of all layers.
    with torch.no_grad():
        hidden = model(torch.tensor([prefixes[0]]), output_hidden_states=True).hidden_states[-1][0]
    np.testing.assert_allclose(engine.embed([prefixes[0]])[0], hidden.mean(dim=0).numpy(), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", [n for n, path in PATH_OF.items() if path == "packed"])
def test_flex_attention_gives_the_same_log_probs(name):
    """Uncompiled, on the CPU: the mask and the keys that it is given are those that a GPU would get."""
    model, segments, prefix = random_model(name), random_segments(9, seed=2), random_prefix(40)
    prefixed = [(prefix, segments), ([], segments[:4]), (prefix[:9], segments[4:])]
    with LogProbEngine(model).scoring():
        found = score_packed(model, prefixed, 100, flex_row)
    for means, (prefix_ids, own) in zip(found, prefixed, strict=True):
        np.testing.assert_allclose(means, expected_log_probs(model, list(prefix_ids), own), rtol=0, atol=1e-5)


def test_a_window_is_shorter_than_the_sequences():
    """Else these tests could not tell a path that ignores it."""
    assert len(random_prefix(40)) > 2 * WINDOW
    windows = [n for n, (_, kwargs, _) in ARCHITECTURES.items() if kwargs.get("sliding_window") == WINDOW]
    assert len(windows) == 6


def test_the_guide_lists_the_path_of_each_architecture():
    page = (ROOT / "docs" / "guides" / "large_models.md").read_text()
    section = page.split("\n## Architectures\n", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| `(packed|cached|whole)` \| (.*?) \|", section, flags=re.MULTILINE)
    table = {name.strip(): path for path, names in rows for name in names.split(",")}
    assert table == PATH_OF
    assert VOCAB < 100  # random ids of the tests are ids of these models
