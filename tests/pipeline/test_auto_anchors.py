"""`num_anchors: auto`: enough anchors for a reliable ranking, decided once, the same after a restart."""

from __future__ import annotations

import json
import logging

import pytest
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, Pool, load_rows, load_scorer, plan_pool, score_pool
from nuggets_trainer.config.scorer_model_options import hint_on_tuned_scorer
from nuggets_trainer.golden.agreement import Agreement
from nuggets_trainer.pipeline import auto_anchors
from nuggets_trainer.pipeline.auto_anchors import number_for
from tests.support.rows import alpaca_rows


def first_look(reliability, num_rows=64):
    return Agreement(num_rows, 32, reliability, None, None, 0, 0)


def test_the_number_gives_the_reliability_that_is_wanted():
    for reliability in (0.5, 0.6, 0.8, 0.85):
        found = number_for(first_look(reliability), 400)
        assert first_look(reliability).reliability_with(found["num_anchors"]) > 0.9 - 1e-9
        assert first_look(reliability).reliability_with(found["num_anchors"] - 2) < 0.9
        assert f"give {reliability:.2f}" in found["says"]


def test_the_number_stays_within_bounds():
    assert number_for(first_look(0.99), 400)["num_anchors"] == auto_anchors.FEWEST
    assert number_for(first_look(0.1), 400)["num_anchors"] == auto_anchors.MOST
    assert "more than 400 would be needed" in number_for(first_look(-0.2), 400)["says"]
    assert number_for(first_look(0.1), 30)["num_anchors"] == 30
    assert number_for(first_look(None, 10), 400)["num_anchors"] == 100  # too few rows to tell


def test_the_command_line_gives_the_number_as_text():
    assert NuggetsConfig(num_anchors="40").num_anchors == 40
    assert NuggetsConfig(num_anchors="auto").num_anchors == "auto"
    with pytest.raises(ValueError, match="`num_anchors` must be one of auto"):
        NuggetsConfig(num_anchors="many")
    with pytest.raises(ValueError, match="needs one anchor set, but there are 2 sets"):
        NuggetsConfig(num_anchors="auto", anchors={"a": "a.jsonl", "b": "b.jsonl"})


def test_the_number_is_decided_once(llama, tokenizer, tmp_path, caplog, monkeypatch):
    """A job that is killed goes on with the same anchors, and one whose notes are lost: the pairs are there."""
    monkeypatch.setattr(auto_anchors, "FEWEST", 4)
    monkeypatch.setattr(auto_anchors, "FIRST_ANCHORS", 6)
    pool = Pool(Dataset.from_list(alpaca_rows(60, seed=51)))
    config = NuggetsConfig(template="plain", top_k=5, num_anchors="auto", anchor_selection="random", schedule="exact")
    caplog.set_level(logging.INFO, "nuggets_trainer")
    scores, golden_set = score_pool(llama, tokenizer, pool, config=config, score_dir=tmp_path)
    why = json.loads((tmp_path / "run.json").read_text())["auto_anchors"]
    assert len(scores.anchors) == why["num_anchors"] <= 30 and why["first_anchors"] == 6
    assert f"num_anchors: {why['says']}" in caplog.text
    for note in tmp_path.glob("*/note-*.json"):
        note.unlink()
    again, same = score_pool(llama, tokenizer, pool, config=config, score_dir=tmp_path)
    assert again.num_pairs_scored == 0 and again.anchors.pool_index == scores.anchors.pool_index
    assert same.indices.tolist() == golden_set.indices.tolist()
    by_number = NuggetsConfig(**{**vars(config), "num_anchors": why["num_anchors"]})
    third, _ = score_pool(llama, tokenizer, pool, config=by_number, score_dir=tmp_path)
    assert third.num_pairs_scored == 0 and json.loads((tmp_path / "run.json").read_text())["auto_anchors"] is None


def test_a_plan_says_what_other_numbers_give(tmp_path):
    model, tokenizer = load_scorer("nuggets-demo/model")
    pool, anchors = (load_rows(f"nuggets-demo/{name}") for name in ("pool", "anchors"))
    config = NuggetsConfig(schedule="exact")
    plan = plan_pool(
        model, tokenizer, pool.select(range(80)), anchors.select(range(8)), config, tmp_path, measure_seconds=60
    )
    found = plan.reliabilities()
    assert list(found) == [4, 8, 16] and found[4] < found[8] < found[16] <= 1
    assert "with 4 anchors" in plan.describe() and plan.to_dict()["reliability"] == found
    assert plan.notes == ("duplicates: 0 rows repeat an earlier one, 0 near-duplicates",)


@pytest.mark.parametrize(
    ("name", "is_tuned"),
    [
        ("google/gemma-3-270m", False),
        ("google/gemma-3-270m-it", True),
        ("meta-llama/Llama-2-7b-chat-hf", True),
        ("mistralai/Mistral-7B-Instruct-v0.3", True),
        ("/models/SmolLM2-135M-Instruct/", True),
        ("chat/edit-7b", False),
        ("", False),
    ],
)
def test_tuned_scorers_are_known_by_their_names(name, is_tuned):
    hint = hint_on_tuned_scorer(name)
    assert (hint is not None) == is_tuned
    if hint is not None:
        assert "name its base model as `scorer_model`" in hint
