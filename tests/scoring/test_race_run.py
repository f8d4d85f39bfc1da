"""The race through the whole scorer: model, store, results. Its golden set is that of the exact schedule."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, Pool, score_pool
from nuggets_trainer.racing.race import Race
from nuggets_trainer.scoring import progress, race_run
from nuggets_trainer.store.score_store import ScoreStore
from tests.support.models import tiny_model
from tests.support.rows import alpaca_rows

POOL, ANCHORS = alpaca_rows(70, seed=21), alpaca_rows(14, seed=22)
RULES = [{"top_k": 3}, {"top_fraction": 0.1}, {"threshold": 0.55}, {"top_k": 70}]


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_model("llama", len(tokenizer))


@pytest.fixture(autouse=True)
def small_waves(monkeypatch):
    """As the pool is small: else a race is over before anyone is eliminated."""
    monkeypatch.setattr(race_run, "WAVE_BATCHES", 4)


def run(model, tokenizer, score_dir, pool=POOL, anchors=ANCHORS, **config):
    config = {"template": "plain", "tokens_per_batch": 160, "exclude_self": True, "deduplicate": "no", **config}
    datasets = Pool(Dataset.from_list(pool)), Pool(Dataset.from_list(anchors), "anchors")
    return score_pool(model, tokenizer, *datasets, config=NuggetsConfig(**config), score_dir=score_dir)


def assert_same_golden_set(one, other):
    for name, value in vars(one).items():
        if name in ("mean_gain", "mean_gain_error"):  # other batches: other rounding
            np.testing.assert_allclose(value, getattr(other, name), rtol=0, atol=1e-5)
        elif name not in ("gain", "gain_error", "pool_mean", "pool_golden_score_mean"):
            np.testing.assert_array_equal(value, getattr(other, name))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_race_keeps_the_golden_set_of_scoring_everything(model, tokenizer, tmp_path, rule, monkeypatch, caplog):
    monkeypatch.setattr(progress, "FIRST_LINE_SECONDS", 0.0)
    caplog.set_level(logging.INFO, "nuggets_trainer")
    pool = [*POOL, *POOL[:9], ANCHORS[4]]  # equal rows, and a row that is an anchor
    scores, golden_set = run(model, tokenizer, tmp_path / "race", pool, **rule)
    # The last line of progress used to be one from the middle: "0 eliminated ... cut 0.00".
    last = [record.getMessage() for record in caplog.records if record.name == "nuggets_trainer.scoring.progress"][-1]
    assert f"{scores.num_eliminated:,} eliminated" in last and f"cut {golden_set.cut:.2f}" in last, last
    full, expected = run(model, tokenizer, tmp_path / "exact", pool, **rule, schedule="exact")
    assert_same_golden_set(golden_set, expected)
    assert np.isnan(scores.gain).all() == (scores.num_eliminated > 0)  # 64 rows give the scale: some were stopped
    assert full.num_eliminated == 0 and full.share_of_pairs == pytest.approx(1, abs=0.01)
    if rule != {"top_k": 70}:
        assert scores.num_eliminated > 20 and scores.num_pairs_scored < full.num_pairs_scored - 20

    eliminated = ~np.isnan(scores.upper_bound)
    assert (np.isnan(scores.golden_score) == eliminated).all()  # never both a bound and a score
    assert (full.golden_score[eliminated] <= scores.upper_bound[eliminated]).all()
    assert (scores.upper_bound[eliminated] < golden_set.cut).all()
    assert (scores.num_anchors[eliminated] < full.num_anchors[eliminated]).all()
    np.testing.assert_array_equal(scores.golden_score[~eliminated], full.golden_score[~eliminated])


def test_result_files_tell_eliminated_candidates_from_scored_ones(model, tokenizer, tmp_path):
    scores, golden_set = run(model, tokenizer, tmp_path, top_k=3)
    rows = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    pairs = pq.read_table(tmp_path / "pairs.parquet")["one_shot"].to_pylist()
    for row, log_probs in zip(rows, pairs, strict=True):
        assert sum(value is not None for value in log_probs) == row["num_anchors"]
        if row["upper_bound"] is None:
            assert row["golden_score"] is not None and row["rank"] is not None
        else:
            assert row["golden_score"] is row["standard_error"] is row["mean_gain"] is row["rank"] is None
            assert row["upper_bound"] < golden_set.cut and row["num_anchors"] < 14 and not row["selected"]
    assert f"{scores.num_eliminated} eliminated before their last anchor" in scores.describe()
    assert golden_set.pool_golden_score_mean is None and "pool_golden_score_mean" not in golden_set.summary()
    assert golden_set.num_candidates == 70


def test_a_killed_race_ends_as_if_nothing_had_happened(tokenizer, tmp_path):
    model = tiny_model("llama", len(tokenizer))
    whole, expected = run(model, tokenizer, tmp_path / "whole", top_k=3)
    for survived in (30, 60, 90):
        calls = []

        def fail_late(*_, calls=calls, survived=survived):
            calls.append(1)
            if len(calls) > survived:
                raise RuntimeError("out of luck")

        hook = model.base_model.register_forward_pre_hook(fail_late)
        with pytest.raises(RuntimeError, match="out of luck"):
            run(model, tokenizer, tmp_path / "killed", top_k=3)
        hook.remove()
    scores, golden_set = run(model, tokenizer, tmp_path / "killed", top_k=3)
    assert 0 < scores.num_pairs_scored < whole.num_pairs_scored
    assert_same_golden_set(golden_set, expected)
    np.testing.assert_array_equal(scores.num_anchors, whole.num_anchors)  # the same pairs, also of the eliminated
    np.testing.assert_array_equal(scores.upper_bound, whole.upper_bound)


def test_another_rule_more_anchors_and_the_exact_schedule_reuse_every_pair(model, tokenizer, tmp_path):
    first, _ = run(model, tokenizer, tmp_path, top_k=3)
    again, _ = run(model, tokenizer, tmp_path, top_k=3)
    assert again.num_pairs_scored == 0
    wider, golden_set = run(model, tokenizer, tmp_path, top_k=9)
    fresh, expected = run(model, tokenizer, tmp_path / "fresh", top_k=9)
    assert wider.num_pairs_scored < fresh.num_pairs_scored
    assert_same_golden_set(golden_set, expected)
    exact, _ = run(model, tokenizer, tmp_path, top_k=3, schedule="exact")
    assert exact.num_pairs_scored == 70 * 14 - first.num_pairs_scored - wider.num_pairs_scored
    more, _ = run(model, tokenizer, tmp_path, anchors=ANCHORS + alpaca_rows(2, seed=23), top_k=3)
    assert more.num_pairs_scored <= 70 * 2  # the old anchors' pairs are all there


def test_nothing_is_computed_that_is_stored(model, tokenizer, tmp_path, monkeypatch):
    run(model, tokenizer, tmp_path, top_k=3, schedule="exact")
    written = []
    monkeypatch.setattr(ScoreStore, "write", lambda *arguments: written.append(arguments))
    scores, _ = run(model, tokenizer, tmp_path, top_k=3)
    assert scores.num_pairs_scored == 0 and not written


def test_a_candidate_whose_log_probs_are_not_finite_is_dropped_by_the_race(tokenizer, tmp_path):
    model = tiny_model("llama", len(tokenizer))
    word = tokenizer("Zebra", add_special_tokens=False)["input_ids"][0]
    assert all(word not in tokenizer(row["output"] + row["instruction"])["input_ids"] for row in POOL + ANCHORS)
    model.get_input_embeddings().weight.data[word] = float("nan")
    pool = [*POOL[:30], {"instruction": "Zebra", "input": "", "output": "Zebra"}]
    scores, golden_set = run(model, tokenizer, tmp_path, pool, top_fraction=0.1)
    assert scores.dropped[30] == "non_finite_log_prob" and golden_set.num_candidates == 30 and len(golden_set) == 3
    _, expected = run(model, tokenizer, tmp_path / "exact", pool, top_fraction=0.1, schedule="exact")
    assert_same_golden_set(golden_set, expected)


def test_waves_are_a_few_forward_passes_long(model, tokenizer, tmp_path, monkeypatch):
    """Larger waves mean fewer meetings of the ranks, and more pairs beyond need; the golden set does not care."""
    num_waves, golden_sets = [], []
    next_wave = Race.next_wave

    def counted(self):
        wave = next_wave(self)
        num_waves[-1] += bool(wave)
        return wave

    monkeypatch.setattr(Race, "next_wave", counted)
    for wave_batches in (1, 4, 10_000):
        monkeypatch.setattr(race_run, "WAVE_BATCHES", wave_batches)
        num_waves.append(0)
        golden_sets.append(run(model, tokenizer, tmp_path / str(wave_batches), top_k=3)[1])
    assert num_waves[0] > num_waves[1] > num_waves[2]
    assert_same_golden_set(golden_sets[0], golden_sets[1])
    assert_same_golden_set(golden_sets[0], golden_sets[2])
