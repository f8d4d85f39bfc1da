"""Losses of completions with and without their prompts, held against one sequence at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from nuggets_trainer import NuggetsConfig, Pool
from nuggets_trainer.comparison import completion_losses as completion_loss
from nuggets_trainer.comparison.completion_losses import completion_losses
from nuggets_trainer.demo import demo_path
from nuggets_trainer.pipeline.request import read_request
from nuggets_trainer.prompts.templates import make_template
from nuggets_trainer.store.score_store import ScoreStore
from tests.support.models import tiny_model
from tests.support.rows import alpaca_rows


def naive(model, ids: list[int], scored: list[int]) -> float:
    with torch.no_grad():
        log_probs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return -float(np.mean([log_probs[p - 1, ids[p]] for p in scored]))


@pytest.mark.parametrize("has_bos", [True, False])
def test_losses_equal_the_naive_ones_over_the_same_tokens(has_bos, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(demo_path("model"))
    if has_bos != (tokenizer.bos_token_id is not None):
        tokenizer.bos_token = "the" if has_bos else None
    model, pool = tiny_model("llama", len(tokenizer)), Pool(Dataset.from_list(alpaca_rows(12, seed=41)))
    config = NuggetsConfig(template="plain")
    found = completion_losses(model, read_request(model, tokenizer, pool, config=config, score_dir=tmp_path))
    template = make_template("plain", tokenizer, pool)
    for i in range(len(pool)):
        segment = template.zero_shot(pool[i])
        scored, targets = list(segment.positions), segment.targets
        assert found.num_tokens[i] == len(targets)
        if has_bos:
            alone, positions = [tokenizer.bos_token_id, *targets], list(range(1, len(targets) + 1))
        else:
            scored, alone, positions = scored[1:], targets, list(range(1, len(targets)))
        assert found.with_prompt[i] == pytest.approx(naive(model, segment.ids, scored), abs=1e-5)
        assert found.without_prompt[i] == pytest.approx(naive(model, alone, positions), abs=1e-5)
        assert found.ifd[i] == pytest.approx(found.with_prompt[i] / found.without_prompt[i])
    assert found.share_computed == 1 and np.ptp(found.ifd) > 0.01


def test_stored_losses_are_not_computed_again(tokenizer, tmp_path, monkeypatch):
    model, rows = tiny_model("llama", len(tokenizer)), alpaca_rows(20, seed=42)
    arguments = {"config": NuggetsConfig(template="plain"), "score_dir": tmp_path}
    monkeypatch.setattr(completion_loss, "BLOCK_ROWS", 8)
    write, written = ScoreStore.write, []

    def fail_late(store, *parts):
        if len(written) == 3:
            raise RuntimeError("out of luck")
        written.append(1)
        write(store, *parts)

    monkeypatch.setattr(ScoreStore, "write", fail_late)
    with pytest.raises(RuntimeError, match="out of luck"):
        completion_losses(model, read_request(model, tokenizer, Dataset.from_list(rows), **arguments))
    monkeypatch.setattr(ScoreStore, "write", write)
    rest = completion_losses(model, read_request(model, tokenizer, Dataset.from_list(rows), **arguments))
    assert rest.share_computed == pytest.approx(16 / 40)
    again = completion_losses(model, read_request(model, tokenizer, Dataset.from_list(rows), **arguments))
    assert again.share_computed == 0
    np.testing.assert_array_equal(again.with_prompt, rest.with_prompt)
    arguments["score_dir"] = tmp_path / "fresh"
    fresh = completion_losses(model, read_request(model, tokenizer, Dataset.from_list(rows), **arguments))
    np.testing.assert_allclose(again.without_prompt, fresh.without_prompt, atol=1e-5)


def test_rows_that_cannot_be_scored_have_no_loss(tokenizer, tmp_path):
    model, rows = tiny_model("llama", len(tokenizer)), alpaca_rows(5, seed=43)
    rows[1] = {**rows[1], "output": ""}
    rows[2] = {**rows[2], "output": "red " * 600}  # beyond the model's context of 512
    config = NuggetsConfig(template="plain")
    request = read_request(model, tokenizer, Dataset.from_list(rows), config=config, score_dir=tmp_path)
    found = completion_losses(model, request)
    assert np.flatnonzero(np.isnan(found.with_prompt)).tolist() == [1, 2]
    assert np.flatnonzero(np.isnan(found.ifd)).tolist() == [1, 2]
    assert found.num_tokens[1] == 0 and found.num_tokens[2] > 600
