"""Rows chosen by the anchors in turn: equal to the slow, obvious way, and to RDS+ on a real model's embeddings."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, score_pool, score_shard
from nuggets_trainer.pipeline.select_again import select_again
from nuggets_trainer.signals import stored_values, turns
from nuggets_trainer.signals.turns import choose_in_turn
from nuggets_trainer.store.score_store import ScoreStore
from tests.support import oracle


def one_by_one(cosines) -> list[int]:
    """Rows in the order in which anchors take them; cosines `(m, n)`."""
    taken: list[int] = []
    while True:
        before = len(taken)
        for own in cosines:
            left = [i for i in range(len(own)) if i not in taken and not np.isnan(own[i])]
            if left:
                taken.append(max(left, key=lambda i, own=own: own[i]))  # the first of the highest
        if len(taken) == before:
            return taken


@pytest.mark.parametrize("queued", [1, 4, 1000])
@pytest.mark.parametrize("shape", [(1, 30), (5, 40), (7, 3)], ids=str)
def test_turns_equal_taking_rows_one_by_one(shape, queued, monkeypatch):
    monkeypatch.setattr(turns, "LEAST_QUEUED", queued)
    monkeypatch.setattr(turns, "LOOK_AHEAD", 2)
    generator = np.random.default_rng(sum(shape))
    for share in (0.0, 0.3, 0.9):
        cosines = generator.integers(0, 8, shape).astype(np.float32) / 8  # many ties
        cosines += generator.integers(0, 2, shape[1]).astype(np.float32)  # anchors want the same rows
        cosines[generator.random(shape) < share] = np.nan
        turn = choose_in_turn(cosines)
        order = np.argsort(turn)[: int((~np.isnan(turn)).sum())]
        assert order.tolist() == one_by_one(cosines)
        assert sorted(turn[order]) == list(range(len(order)))
        assert np.array_equal(np.isnan(turn), np.isnan(cosines).all(axis=0))


def test_queues_are_bounded_and_choose_the_same(monkeypatch):
    """A quarter of 10 million rows for each of 100 anchors took 2 GB."""
    cosines = np.random.default_rng(0).random((4, 900)).astype(np.float32)
    lengths = []

    class Watched(turns._Queue):
        def _refill(self):
            super()._refill()
            lengths.append(len(self._rows))
            assert self._rows.dtype == np.uint16

    monkeypatch.setattr(turns, "_Queue", Watched)
    monkeypatch.setattr(turns, "LEAST_QUEUED", 8)
    expected = choose_in_turn(cosines)
    assert max(lengths) == 225
    lengths.clear()
    monkeypatch.setattr(turns, "MOST_QUEUED", 120)
    np.testing.assert_array_equal(choose_in_turn(cosines), expected)
    assert max(lengths) == 30


def scored(model, tokenizer, rows, anchors, score_dir, **options):
    config = NuggetsConfig(**{"rank_by": "similarity_turn", "top_k": 4, "template": "plain", **options})
    pools = Dataset.from_list(rows), Dataset.from_list(anchors)
    return score_pool(model, tokenizer, *pools, config=config, score_dir=score_dir)


def read(score_dir, name="similarity_turn"):
    return np.array(pq.read_table(score_dir / "scores.parquet")[name].to_pylist(), dtype=float)


@pytest.fixture
def whole(llama, tokenizer, pool_rows, anchor_rows, tmp_path):
    """One run; a row of the pool is an anchor too."""
    pool_rows[3] = anchor_rows[2]
    scored(llama, tokenizer, pool_rows, anchor_rows, tmp_path / "whole")
    return tmp_path / "whole"


def test_the_turns_of_a_run_are_those_of_rds(whole, llama, tokenizer, pool_rows, anchor_rows, tmp_path):
    cosines = oracle.cosines(llama, tokenizer, "plain", pool_rows, anchor_rows)
    assert np.isnan(cosines).sum() == 1  # the row that is an anchor
    expected = one_by_one(cosines)
    assert np.argsort(read(whole)).tolist() == expected
    _, golden_set = scored(llama, tokenizer, pool_rows, anchor_rows, whole)
    assert golden_set.indices.tolist() == expected[:4] and golden_set.cut == 3
    assert "turn by similarity 0 to 3" in golden_set.describe()
    best = np.argsort(-read(whole, "similarity"), kind="stable")
    assert set(best[:4]) != set(expected[:4])  # the mean is another choice
    # Anchors in another order choose other rows, and no row is passed through the model again.
    scored(llama, tokenizer, pool_rows, anchor_rows[::-1], whole)
    assert np.argsort(read(whole)).tolist() == one_by_one(cosines[::-1])
    scored(llama, tokenizer, pool_rows, anchor_rows, tmp_path, rank_by="golden_score", row_signals=True)
    assert np.argsort(read(tmp_path)).tolist() == expected
    assert select_again(tmp_path, NuggetsConfig(rank_by="similarity_turn", top_k=4)).indices.tolist() == expected[:4]
    few = select_again(tmp_path, NuggetsConfig(top_k=2, require="similarity_turn < 3"))
    assert set(few.indices) < set(expected[:3])


def test_parts_and_a_killed_run_give_the_same_turns(
    whole, llama, tokenizer, pool_rows, anchor_rows, tmp_path, monkeypatch
):
    write, num_parts = ScoreStore.write, []

    def fail_late(store, *columns):
        if len(num_parts) == 2:
            raise RuntimeError("out of luck")
        num_parts.append(1)
        write(store, *columns)

    monkeypatch.setattr("nuggets_trainer.store.score_store.FLUSH_CANDIDATES", 1)
    monkeypatch.setattr(ScoreStore, "write", fail_late)
    options = {"tokens_per_batch": 4}  # a call of the engine takes one row
    with pytest.raises(RuntimeError, match="out of luck"):
        scored(llama, tokenizer, pool_rows, anchor_rows, tmp_path, **options)
    monkeypatch.setattr(ScoreStore, "write", write)
    config = NuggetsConfig(rank_by="similarity_turn", template="plain")
    pools = Dataset.from_list(pool_rows), Dataset.from_list(anchor_rows)
    for part in (0, 1):
        assert score_shard(llama, tokenizer, *pools, config, tmp_path, shard=(part, 2)) == 6
    monkeypatch.setattr(stored_values, "PartWriter", None)  # nothing is left to compute
    scored(llama, tokenizer, pool_rows, anchor_rows, tmp_path)
    np.testing.assert_array_equal(read(tmp_path), read(whole))


def test_scores_without_turns_say_what_to_run(llama, tokenizer, pool_rows, anchor_rows, tmp_path):
    """As a run of an earlier version: it has the mean similarity alone, and its store has no cosines."""
    scored(llama, tokenizer, pool_rows, anchor_rows, tmp_path, rank_by="similarity")
    before = read(tmp_path, "similarity")
    assert "similarity_turn" not in pq.read_table(tmp_path / "scores.parquet").column_names
    with pytest.raises(ValueError, match=r"needs the columns .'similarity_turn'.*`--row_signals true`"):
        select_again(tmp_path, NuggetsConfig(rank_by="similarity_turn"))
    scored(llama, tokenizer, pool_rows, anchor_rows, tmp_path, rank_by="similarity", row_signals=True)
    np.testing.assert_array_equal(read(tmp_path, "similarity"), before)
    assert len(select_again(tmp_path, NuggetsConfig(rank_by="similarity_turn", top_k=4))) == 4
