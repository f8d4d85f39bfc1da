"""The race for gains through the whole scorer: model, store, results, and another cut from them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, Pool, score_pool, select_again
from nuggets_trainer.golden.gains import gain_pilot
from nuggets_trainer.racing.gain_race import GainRace
from nuggets_trainer.racing.gain_standings import GainStandings
from nuggets_trainer.scoring import race_run
from tests.support.models import tiny_model
from tests.support.rows import alpaca_rows

POOL, ANCHORS = alpaca_rows(110, seed=31), alpaca_rows(14, seed=32)
PILOT = 64


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_model("llama", len(tokenizer))


@pytest.fixture(autouse=True)
def small_waves(monkeypatch):
    """As the pool is small: else a race has few looks at its results."""
    monkeypatch.setattr(race_run, "WAVE_BATCHES", 4)


def run(model, tokenizer, score_dir, pool=POOL, **config):
    config = {"template": "plain", "tokens_per_batch": 160, "exclude_self": True, "rank_by": "gain", **config}
    config = {"top_k": 6, "race_recall": 0.9, "signal_check": False, "deduplicate": "no", **config}
    datasets = Pool(Dataset.from_list(pool)), Pool(Dataset.from_list(ANCHORS), "anchors")
    return score_pool(model, tokenizer, *datasets, config=NuggetsConfig(**config), score_dir=score_dir)


@pytest.fixture(scope="module")
def whole(model, tokenizer, tmp_path_factory):
    """A race that ran through, and the exact schedule: directory, scores and golden set of each; and the race."""
    races = []

    def remembered(*arguments, **options):
        races.append(GainRace(*arguments, **options))
        return races[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(race_run, "WAVE_BATCHES", 4)
        patch.setattr(race_run, "GainRace", remembered)
        found = {}
        for schedule in ("race", "exact"):
            score_dir = tmp_path_factory.mktemp(schedule)
            found[schedule] = (score_dir, *run(model, tokenizer, score_dir, schedule=schedule))
    return {**found, "played": races[0]}


def assert_same(one, other):
    for name in ("gain", "gain_error", "golden_score", "mean_gain", "upper_bound"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=0, atol=1e-4, err_msg=name)
    np.testing.assert_array_equal(one.num_anchors, other.num_anchors)


def test_auto_is_the_race_and_leaves_out_pairs(whole, model, tokenizer, tmp_path):
    _, scores, golden_set = whole["race"]
    auto, same = run(model, tokenizer, tmp_path)
    np.testing.assert_array_equal(same.indices, golden_set.indices)
    _, full, expected = whole["exact"]
    assert auto.num_pairs_scored == scores.num_pairs_scored < 0.85 * full.num_pairs_scored
    assert len(golden_set) == len(expected) == 6 and np.isin(golden_set.indices, expected.indices).mean() >= 0.5
    assert f"{scores.num_eliminated} stopped before their last anchor, with predicted scores" in scores.describe()


def test_complete_rows_have_the_gain_of_the_exact_schedule(whole):
    _, scores, _ = whole["race"]
    _, full, _ = whole["exact"]
    stopped = ~np.isnan(scores.upper_bound)
    assert 20 < stopped.sum() == scores.num_eliminated < len(POOL) - PILOT
    for name in ("gain", "gain_error", "golden_score", "mean_gain", "mean_gain_error"):
        np.testing.assert_allclose(getattr(scores, name)[~stopped], getattr(full, name)[~stopped], atol=1e-5)
        assert np.isfinite(getattr(scores, name)).all()  # predicted where the row was stopped
    assert (scores.num_anchors[stopped] < full.num_anchors[stopped]).all()
    assert (full.golden_score[stopped] <= scores.upper_bound[stopped]).all()
    distance = (scores.gain - full.gain)[stopped] / scores.gain_error[stopped]
    assert np.sqrt(np.mean(distance**2)) < 1.5


def test_the_golden_set_is_that_of_the_race_on_arrays(whole):
    """Replayed on the pairs that the exact schedule scored."""
    _, scores, golden_set = whole["race"]
    exact_dir, full, _ = whole["exact"]
    one_shot = np.array(pq.read_table(exact_dir / "pairs.parquet")["one_shot"].to_pylist(), dtype=np.float32)
    played = whole["played"]
    standings = GainStandings(("top_k", 6), full.anchors.zero_shot, np.isnan(one_shot))
    tokens = played.prefix_tokens, played.anchor_tokens, played.tokens_per_wave
    race = GainRace(standings, *tokens, pilot=gain_pilot(Pool(Dataset.from_list(POOL)).read_keys()[0]), recall=0.9)
    while wave := race.next_wave():
        race.update([(row, anchors, one_shot[row, anchors]) for row, anchors in wave])
    np.testing.assert_array_equal(np.argsort(-standings.value, kind="stable")[:6], golden_set.indices)
    np.testing.assert_array_equal(standings.num_scored, scores.num_anchors)
    np.testing.assert_allclose(standings.value, scores.gain, atol=1e-4)


def test_a_race_that_failed_ends_as_if_nothing_had_happened(whole, tokenizer, tmp_path):
    model = tiny_model("llama", len(tokenizer))
    _, scores, golden_set = whole["race"]
    for survived in (50, 100):
        calls = []

        def fail_late(*_, calls=calls, survived=survived):
            calls.append(1)
            if len(calls) > survived:
                raise RuntimeError("out of luck")

        hook = model.base_model.register_forward_pre_hook(fail_late)
        with pytest.raises(RuntimeError, match="out of luck"):
            run(model, tokenizer, tmp_path)
        hook.remove()
    again, same = run(model, tokenizer, tmp_path)
    assert 0 < again.num_pairs_scored < scores.num_pairs_scored
    np.testing.assert_array_equal(same.indices, golden_set.indices)
    assert_same(again, scores)


def test_files_tell_predicted_rows_from_scored_ones(whole):
    score_dir, scores, _ = whole["race"]
    rows = pq.read_table(score_dir / "scores.parquet").to_pylist()
    pairs = pq.read_table(score_dir / "pairs.parquet")["one_shot"].to_pylist()
    for row, log_probs in zip(rows, pairs, strict=True):
        num_scored = sum(value is not None for value in log_probs)
        assert num_scored == row["num_anchors"] and row["rank"] is not None
        assert (row["upper_bound"] is None) == (num_scored == len(ANCHORS))
    html = (score_dir / "report.html").read_text()
    assert f"{scores.num_eliminated} rows have predicted scores" in html
    json.loads((score_dir / "report.json").read_text(), parse_constant=pytest.fail)  # no NaN


def test_another_cut_is_refused_where_it_is_not_decided(whole, tmp_path):
    score_dir, _, golden_set = whole["race"]
    same = select_again(score_dir, NuggetsConfig(top_k=6, rank_by="gain"))
    np.testing.assert_array_equal(same.indices, golden_set.indices)
    shutil.copytree(score_dir, tmp_path / "strict")
    run_info = json.loads((score_dir / "run.json").read_text())
    run_info["config"]["race_recall"] = 0.99
    (tmp_path / "strict" / "run.json").write_text(json.dumps(run_info))
    with pytest.raises(ValueError, match=r"do not decide `top_k=45`.*would find only \d+% .*`race_recall=0.99`"):
        select_again(tmp_path / "strict", NuggetsConfig(top_k=45, rank_by="gain"))
    assert round(0.055 * len(POOL)) == 6  # a threshold is no fraction: it does not ask for the rows of the run
    with pytest.raises(ValueError, match=r"do not decide `threshold=0.055`.*would find only"):
        select_again(tmp_path / "strict", NuggetsConfig(threshold=0.055, rank_by="gain"))
    with pytest.raises(ValueError, match="do not decide `top_k=6`.*--schedule exact"):
        select_again(score_dir, NuggetsConfig(top_k=6))  # by golden score: predictions do not count


def test_nothing_is_raced_in_a_pool_as_small_as_the_pilot(model, tokenizer, tmp_path):
    scores, _ = run(model, tokenizer, tmp_path, POOL[:20])
    assert scores.num_eliminated == 0 and scores.share_of_pairs == pytest.approx(1)
