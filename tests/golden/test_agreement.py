"""What other anchors would change, against simulated truth: the same rows on fresh anchors of the same kind."""

from __future__ import annotations

import numpy as np
import pytest

from nuggets_trainer.golden.agreement import anchors_for_reliability, measure_agreement
from nuggets_trainer.golden.ranking import rank_candidates
from nuggets_trainer.golden.scores import golden_scores


def simulated(noise, num_rows=400, num_anchors=64, seed=0):
    """Gains of rows of different worth on two sets of anchors of different difficulty."""
    generator = np.random.default_rng(seed)
    worth = generator.normal(size=(num_rows, 1))
    ease = generator.normal(0, 0.5, 2 * num_anchors)
    return np.split(worth + ease + generator.normal(0, noise, (num_rows, 2 * num_anchors)), 2, axis=1)


def kept(gains, number, rank_by):
    return rank_candidates(golden_scores(np.zeros(gains.shape[1]), gains), rank_by)[:number]


CASES = [("golden_score", 2.0, 0.1), ("golden_score", 5.0, 0.25), ("golden_score", 12.0, 0.1)]
CASES += [("gain", 5.0, 0.1), ("mean_gain", 12.0, 0.25)]


@pytest.mark.parametrize(("rank_by", "noise", "fraction"), CASES)
def test_what_stays_is_what_fresh_anchors_keep(rank_by, noise, fraction):
    """Drawing the same anchors again would say about 0.2 more than is true."""
    told, true = [], []
    for seed in range(8):
        first, second = simulated(noise, seed=seed)
        found = measure_agreement(np.zeros(64), first, fraction, rank_by)
        number = round(fraction * 400)
        best, others = kept(first, number, rank_by), kept(second, number, rank_by)
        scores = [getattr(golden_scores(np.zeros(64), gains), rank_by) for gains in (first, second)]
        told.append((found.reliability, found.stays, found.top_stays))
        top = best[: number // 4]
        true.append(
            (np.corrcoef(scores)[0, 1], len(np.intersect1d(best, others)) / number, np.isin(top, others).mean())
        )
    np.testing.assert_allclose(np.mean(told, axis=0), np.mean(true, axis=0), atol=0.08)


def test_a_pilot_tells_what_all_rows_tell():
    first, _ = simulated(5.0)
    whole, pilot = (measure_agreement(np.zeros(64), rows, 0.1) for rows in (first, first[:64]))
    assert pilot.reliability == pytest.approx(whole.reliability, abs=0.1)
    assert pilot.stays == pytest.approx(whole.stays, abs=0.2)


def test_rows_that_all_tie_have_no_reliability():
    """Every row wins every anchor: what a model that needs BOS does with zero-shot text that has none."""
    found = measure_agreement(np.zeros(20), np.abs(simulated(1.0, 40, 10)[0]) @ np.ones((10, 20)), 0.1)
    assert (found.num_won_by_all, found.num_won_by_none, found.num_useless) == (20, 0, 20)
    assert found.reliability == 0


def test_pairs_that_are_missing_are_left_out():
    gains, _ = simulated(5.0, 100, 20)
    with_itself = gains.copy()
    with_itself[3, 5] = np.nan
    dropped = np.concatenate([with_itself, np.full((5, 20), np.nan)])
    zero_shot = np.zeros(20)
    found, same = (measure_agreement(zero_shot, rows, 0.1) for rows in (with_itself, dropped))
    assert found == same and found.num_rows == 100
    zero_shot[0] = np.nan
    assert measure_agreement(zero_shot, gains, 0.1).num_anchors == 19


@pytest.mark.parametrize(("num_rows", "num_anchors", "fraction"), [(15, 20, 0.1), (40, 3, 0.1), (0, 20, 0.1)])
def test_too_little_to_tell(num_rows, num_anchors, fraction):
    found = measure_agreement(np.zeros(num_anchors), simulated(1.0, num_rows, num_anchors)[0], fraction)
    assert found.reliability is None and found.stays is None and found.reliability_with(100) is None


def test_a_rule_that_keeps_all_or_nothing_has_no_golden_set_to_stay():
    gains, _ = simulated(5.0, 40, 20)
    for fraction in (0.0, 1.0):
        found = measure_agreement(np.zeros(20), gains, fraction)
        assert found.reliability is not None and found.stays is None and found.top_stays is None


def test_more_anchors_by_spearman_brown():
    assert anchors_for_reliability(0.6, 32, 0.6) == pytest.approx(32)
    assert anchors_for_reliability(0.9, 32, 0.6) < 32 < anchors_for_reliability(0.3, 32, 0.6)
    assert anchors_for_reliability(0.0, 32, 0.9) == np.inf and anchors_for_reliability(1.0, 32, 0.9) == 1
    found = measure_agreement(np.zeros(64), simulated(5.0)[0], 0.1)
    twice = found.reliability_with(128)
    assert anchors_for_reliability(found.reliability, 64, twice) == pytest.approx(128)
