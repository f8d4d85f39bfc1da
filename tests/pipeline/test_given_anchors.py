"""Anchors of one's own: a training split with columns of other names, some of its rows drawn at random."""

from __future__ import annotations

import json
import logging

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, plan_pool, score_pool
from nuggets_trainer.golden.agreement import deciding_nothing
from nuggets_trainer.pipeline import auto_anchors
from nuggets_trainer.pipeline.rows import read_anchors, read_pool
from tests.support.rows import alpaca_rows

POOL = Dataset.from_list(alpaca_rows(40, seed=31))
TASK = Dataset.from_list(
    [{"question": row["instruction"], "answer": row["output"]} for row in alpaca_rows(30, seed=32)]
)
COLUMNS = ["instruction=question", "output=answer"]
STANDARD = TASK.rename_columns({"question": "instruction", "answer": "output"})


def scored(model, tokenizer, score_dir, anchors=STANDARD, **options):
    config = NuggetsConfig(**{"template": "plain", "top_k": 5, "schedule": "exact", **options})
    return score_pool(model, tokenizer, POOL, anchors, config, score_dir)


def texts_of(request_anchors) -> list[str]:
    return [row.text_key for row in request_anchors]


def test_columns_of_the_anchors_are_mapped_by_themselves(llama, tokenizer, tmp_path):
    """The pool has Alpaca's columns, the task its own; the scores are those of rows with standard names."""
    mapped, _ = scored(llama, tokenizer, tmp_path, TASK, anchor_columns=COLUMNS, num_anchors=4)
    standard, _ = scored(llama, tokenizer, tmp_path, num_anchors=4)
    assert standard.num_pairs_scored == 0
    np.testing.assert_array_equal(mapped.golden_score, standard.golden_score)


def test_unknown_columns_of_anchors_lead_to_what_to_write(tmp_path):
    pool = read_pool(POOL, NuggetsConfig())
    with pytest.raises(ValueError, match=r"Is it `--anchor_columns instruction=question output=answer`\?"):
        read_anchors(TASK, NuggetsConfig(), pool)
    with pytest.raises(ValueError, match=r"`anchor_columns` has instruction=q, but `anchors` has no such column"):
        read_anchors(TASK, NuggetsConfig(anchor_columns="instruction=q output=answer"), pool)
    with pytest.raises(ValueError, match="`anchor_columns` must map to"):
        NuggetsConfig(anchor_columns={"instructions": "question"})
    with pytest.raises(ValueError, match="`anchor_columns` names columns of given anchors"):
        read_anchors(None, NuggetsConfig(anchor_columns=COLUMNS), pool)


def test_of_several_sets_those_with_the_columns_are_mapped():
    pool = read_pool(POOL, NuggetsConfig())
    sets = read_anchors({"task": TASK, "other": STANDARD}, NuggetsConfig(anchor_columns=COLUMNS), pool)
    assert (
        texts_of(sets["task"])
        == texts_of(sets["other"])
        == texts_of(read_anchors(STANDARD, NuggetsConfig(), pool)[""])
    )


def test_more_anchors_drawn_are_the_same_and_others(llama, tokenizer, tmp_path, caplog):
    caplog.set_level(logging.INFO, "nuggets_trainer")
    scored(llama, tokenizer, tmp_path, num_anchors=4)
    few = json.loads((tmp_path / "run.json").read_text())["drawn_anchors"][""]
    assert f"4 anchors of {len(TASK)} drawn at random, with the seed 42" in caplog.text
    more_scores, _ = scored(llama, tokenizer, tmp_path, num_anchors=6)
    more = json.loads((tmp_path / "run.json").read_text())["drawn_anchors"][""]
    assert set(few) < set(more) and sorted(more) == more and more_scores.num_pairs_scored == 2 * len(POOL)
    by_hand, _ = scored(llama, tokenizer, tmp_path, STANDARD.select(more))
    assert by_hand.num_pairs_scored == 0
    np.testing.assert_array_equal(by_hand.golden_score, more_scores.golden_score)
    other = scored(llama, tokenizer, tmp_path, num_anchors=6, anchor_seed=1)[0]
    assert other.num_pairs_scored > 0


def test_each_of_several_sets_gives_the_number(llama, tokenizer, tmp_path):
    sets = {"a": STANDARD.select(range(15)), "b": STANDARD.select(range(15, 30))}
    scored(llama, tokenizer, tmp_path, sets, num_anchors=3)
    assert pq.read_table(tmp_path / "anchors.parquet")["anchor_set"].to_pylist() == ["a"] * 3 + ["b"] * 3
    with pytest.raises(ValueError, match="needs one anchor set, but there are 2 sets"):
        scored(llama, tokenizer, tmp_path, sets, num_anchors="auto")


def test_too_few_anchors_to_draw_are_refused(llama, tokenizer, tmp_path):
    rows = Dataset.from_list([*STANDARD.select([0, 0, 1]), {"instruction": "Say.", "output": " "}])
    with pytest.raises(ValueError, match=r"`num_anchors=3` anchors must be drawn .*, but only 2 of 4 rows"):
        scored(llama, tokenizer, tmp_path, rows, num_anchors=3)


def test_auto_replaces_anchors_that_decide_nothing(llama, tokenizer, tmp_path, monkeypatch):
    """An anchor that every first row wins is not drawn again, and another one takes its place."""
    monkeypatch.setattr(auto_anchors, "FEWEST", 8)
    monkeypatch.setattr(auto_anchors, "MOST", 8)
    monkeypatch.setattr(auto_anchors, "FIRST_ANCHORS", 8)
    monkeypatch.setattr(auto_anchors, "FIRST_ROWS", 5)
    scored(llama, tokenizer, tmp_path / "first", num_anchors=8)
    first = json.loads((tmp_path / "first" / "run.json").read_text())["drawn_anchors"][""]
    scores, _ = scored(llama, tokenizer, tmp_path, num_anchors="auto")
    run = json.loads((tmp_path / "run.json").read_text())
    replaced, drawn = run["auto_anchors"]["replaced"], run["drawn_anchors"][""]
    assert len(replaced) > 0 and len(drawn) == len(scores.anchors) == 8
    assert f"{len(replaced)} of these anchors decide nothing, and others are taken" in run["auto_anchors"]["says"]
    assert len(set(first) - set(drawn)) == len(replaced)
    again, _ = scored(llama, tokenizer, tmp_path, num_anchors="auto")
    assert again.num_pairs_scored == 0
    plan = plan_pool(
        llama,
        tokenizer,
        POOL,
        STANDARD,
        NuggetsConfig(template="plain", schedule="exact", num_anchors="auto"),
        tmp_path,
        measure_seconds=0.01,
    )
    assert plan.to_dict()["num_pairs_scored"] == 0 and plan.to_dict()["num_anchors"] == 8


def test_auto_keeps_useless_anchors_where_there_are_no_others(llama, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(auto_anchors, "FIRST_ROWS", 3)
    few = STANDARD.select(range(6))
    scores, _ = scored(llama, tokenizer, tmp_path, few, num_anchors="auto")
    run = json.loads((tmp_path / "run.json").read_text())
    assert len(run["auto_anchors"]["replaced"]) > 0 and run["drawn_anchors"] == {"": list(range(6))}
    assert len(scores.anchors) == run["auto_anchors"]["num_anchors"] == 6
    empty = Dataset.from_list([{"instruction": "Say.", "output": " "}])
    with pytest.raises(ValueError, match="only 0 of 1 row can be"):
        scored(llama, tokenizer, tmp_path, empty, num_anchors="auto")


def test_the_early_look_names_anchors_that_decide_nothing(llama, tokenizer, tmp_path):
    scored(llama, tokenizer, tmp_path)
    look = json.loads((tmp_path / "run.json").read_text())["early_look"]
    pairs = np.array(pq.read_table(tmp_path / "pairs.parquet")["one_shot"].to_pylist(), dtype=np.float32)
    zero_shot = pq.read_table(tmp_path / "anchors.parquet")["zero_shot"].to_numpy()
    won_by_all, won_by_none = deciding_nothing(zero_shot, pairs)
    assert set(np.flatnonzero(won_by_all | won_by_none).tolist()) <= set(look["useless"])
    assert len(look["useless"]) == look["num_won_by_all"] + look["num_won_by_none"] > 0
