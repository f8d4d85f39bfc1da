"""The standardised gain: equal to a slow loop, shrunk where an anchor hardly varies, and fixed by the pilot alone."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from nuggets_trainer.golden.gains import FEWEST_PILOT_ROWS, anchor_scale, error_of_mean, gain_pilot
from nuggets_trainer.golden.scores import golden_scores


def log_probs(seed: int, n: int = 40, m: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Anchors of unlike deviations, some pairs that were not scored, and a row without any."""
    generator = np.random.default_rng(seed)
    zero_shot = generator.normal(-2, 0.5, m).astype(np.float32)
    gains = generator.normal(0.1, 1, (n, m)) * np.geomspace(0.01, 1, m)
    one_shot = (zero_shot + gains).astype(np.float32)
    one_shot[generator.random((n, m)) < 0.1] = np.nan
    one_shot[generator.integers(n)] = np.nan
    return zero_shot, one_shot


def naive_scale(zero_shot, one_shot):
    """Mean and deviation of each anchor's gain, column by column over plain floats."""
    columns = []
    for j, before in enumerate(zero_shot.tolist()):
        columns.append([after - before for after in one_shot[:, j].tolist() if not math.isnan(after)])
    means = [statistics.fmean(column) for column in columns]
    squares = [math.fsum((x - mean) ** 2 for x in column) for column, mean in zip(columns, means, strict=True)]
    common = math.fsum(squares) / sum(len(column) - 1 for column in columns)
    deviations = []
    for column, square in zip(columns, squares, strict=True):
        deviations.append(math.sqrt((square + 4 * common) / (len(column) - 1 + 4)))
    return means, deviations


def naive_gain(zero_shot, row, means, deviations):
    """Standardised gain of one row, its error, and the error of its mean gain."""
    gains, standardised = [], []
    for before, after, mean, deviation in zip(zero_shot.tolist(), row.tolist(), means, deviations, strict=True):
        if not math.isnan(after):
            gains.append(after - before)
            standardised.append((after - before - mean) / deviation)
    if not gains:
        return math.nan, math.nan, math.nan
    errors = [math.nan, math.nan]
    if len(gains) > 1:
        errors = [statistics.stdev(values) / math.sqrt(len(values)) for values in (standardised, gains)]
    return statistics.fmean(standardised), *errors


@pytest.mark.parametrize("seed", range(5))
def test_standardised_gains_equal_a_plain_loop(seed):
    zero_shot, one_shot = log_probs(seed)
    pilot = np.arange(3, 20)
    scale = anchor_scale(zero_shot, one_shot[pilot])
    means, deviations = naive_scale(zero_shot, one_shot[pilot])
    np.testing.assert_allclose(scale.mean, means, rtol=1e-9)
    np.testing.assert_allclose(scale.deviation, deviations, rtol=1e-9)
    expected = np.array([naive_gain(zero_shot, row, means, deviations) for row in one_shot])
    found = golden_scores(zero_shot, one_shot, scale)
    np.testing.assert_allclose(
        np.stack([found.gain, found.gain_error, found.mean_gain_error], axis=1), expected, rtol=1e-9, atol=1e-12
    )
    assert np.isnan(expected).any() and np.isnan(one_shot).any(axis=1).sum() > 5


def test_an_anchor_that_hardly_varies_is_measured_by_the_others():
    """Its own deviation of a rounding error would let it decide the whole ranking."""
    generator = np.random.default_rng(0)
    gains = generator.normal(0, 0.1, (64, 20))
    gains[:, 4] = generator.normal(0, 1e-7, 64)
    deviation = anchor_scale(np.zeros(20), gains).deviation
    assert deviation[4] == pytest.approx(0.1 * math.sqrt(4 / 67), rel=0.1)
    np.testing.assert_allclose(np.delete(deviation, 4), 0.1, rtol=0.3)


def test_a_small_pilot_trusts_the_common_deviation_more():
    generator = np.random.default_rng(1)
    gains = generator.normal(0, np.geomspace(0.02, 0.5, 50), (2000, 50))
    spread = [np.log(anchor_scale(np.zeros(50), gains[:p]).deviation).std() for p in (2, 8, 64, 2000)]
    assert spread == sorted(spread) and spread[0] < 0.7 < 0.9 < spread[-1]
    one_row = anchor_scale(np.zeros(50), gains[:1])
    np.testing.assert_array_equal(one_row.deviation, 1.0)  # nothing varies in a single row
    np.testing.assert_array_equal(one_row.mean, gains[0])


def test_deviations_are_above_zero_where_nothing_varies():
    scores = golden_scores(np.zeros(3), np.full((5, 3), 0.5))
    assert scores.gain.tolist() == [0.0] * 5 and scores.gain_error.tolist() == [0.0] * 5


def test_an_anchor_that_the_pilot_lacks_has_the_common_scale():
    one_shot = np.array([[0.1, 1.0, np.nan], [0.3, 3.0, np.nan]])
    scale = anchor_scale(np.zeros(3), one_shot)
    assert scale.mean[2] == pytest.approx(1.1)
    assert scale.deviation[2] == pytest.approx(math.sqrt((0.02 + 2.0) / 2))
    unscored = anchor_scale(np.full(2, np.nan), np.zeros((3, 2)))
    assert unscored.mean.tolist() == [0.0, 0.0] and unscored.deviation.tolist() == [1.0, 1.0]


def test_gains_depend_on_the_pilot_and_on_no_other_row():
    zero_shot, one_shot = log_probs(7, n=300, m=12)
    keys = [f"{key:032x}" for key in np.random.default_rng(2).permutation(300).tolist()]
    pilot = gain_pilot(keys)
    assert len(pilot) == FEWEST_PILOT_ROWS
    before = golden_scores(zero_shot, one_shot, anchor_scale(zero_shot, one_shot[pilot]))
    more = np.concatenate([one_shot, one_shot[:50] + np.float32(3)])  # far better rows, with larger hashes
    more_keys = keys + [f"{key:032x}" for key in range(1000, 1050)]
    after = golden_scores(zero_shot, more, anchor_scale(zero_shot, more[gain_pilot(more_keys)]))
    np.testing.assert_array_equal(after.gain[:300], before.gain)
    whole = golden_scores(zero_shot, more)
    assert np.nanmax(np.abs(whole.gain[:300] - before.gain)) > 0.1  # the scale of all rows would have moved

    order = np.random.default_rng(3).permutation(300)
    shuffled_pilot = gain_pilot([keys[i] for i in order])
    shuffled = golden_scores(zero_shot, one_shot[order], anchor_scale(zero_shot, one_shot[order][shuffled_pilot]))
    for name in ("gain", "gain_error", "mean_gain_error"):
        np.testing.assert_array_equal(getattr(shuffled, name), getattr(before, name)[order])


def test_a_scale_does_not_depend_on_the_size_of_blocks(monkeypatch):
    """Sums by block were rounded otherwise than sums of all rows."""
    zero_shot, one_shot = log_probs(9, n=50)
    whole = anchor_scale(zero_shot, one_shot)
    monkeypatch.setattr("nuggets_trainer.golden.arrays.ROWS_AT_ONCE", 7)
    by_block = anchor_scale(zero_shot, one_shot)
    np.testing.assert_array_equal(by_block.mean, whole.mean)
    np.testing.assert_array_equal(by_block.deviation, whole.deviation)


def test_the_pilot_is_the_smallest_hashes_once_each():
    keys = [f"{number:05d}" for number in np.random.default_rng(0).permutation(9000)] * 2
    pilot = gain_pilot(keys)
    assert [keys[place] for place in pilot] == [f"{number:05d}" for number in range(94)]  # the root of 9,000
    assert (pilot < 9000).all()  # the first of two equal rows
    assert gain_pilot(["b", "a"]).tolist() == [1, 0] and len(gain_pilot([])) == 0


def test_an_error_needs_two_anchors():
    values = np.array([[1.0, 2.0, 6.0], [1.0, 5.0, 5.0], [0.0, 0.0, 0.0]])
    scored = np.array([[True, True, True], [True, False, False], [False, False, False]])
    found = error_of_mean(values, scored)
    assert found[0] == pytest.approx(statistics.stdev([1, 2, 6]) / math.sqrt(3))
    assert np.isnan(found[1:]).all()


def test_the_gain_is_the_more_reliable_where_anchors_differ_in_scale():
    """Rows of known worth: the standardised gain finds it better than the share of wins and the mean gain."""
    generator = np.random.default_rng(5)
    worth = generator.normal(0, 1, 400)
    deviation = np.geomspace(0.02, 1, 24)
    gains = (0.4 * worth[:, None] + generator.normal(0, 1, (400, 24))) * deviation
    scores = golden_scores(np.zeros(24), gains)
    found = {}
    for name in ("gain", "golden_score", "mean_gain"):
        found[name] = np.corrcoef(worth, getattr(scores, name))[0, 1]
    assert found["gain"] > found["golden_score"] + 0.02 and found["gain"] > found["mean_gain"] + 0.02
