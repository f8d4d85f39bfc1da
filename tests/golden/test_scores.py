"""Golden score, mean gain and standard error equal a double loop over plain floats."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from nuggets_trainer.golden.scores import golden_scores, standard_error


def naive(zero_shot, one_shot):
    """Golden score, standard error, mean gain and anchors scored of each candidate, pair by pair."""
    rows = []
    for row in one_shot:
        gains, wins = [], 0
        for before, after in zip(zero_shot, row, strict=True):
            if math.isnan(after):
                continue
            gains.append(float(after) - float(before))
            wins += bool(after > before)
        n = len(gains)
        p = wins / n if n else math.nan
        q = (wins + 2) / (n + 4)
        error = max(math.sqrt(p * (1 - p) / n), math.sqrt(q * (1 - q) / (n + 4))) if n else math.nan
        rows.append((p, error, math.fsum(gains) / n if n else math.nan, n))
    return [np.array(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(6))
def test_scores_equal_a_plain_double_loop(seed, dtype):
    generator = np.random.default_rng(seed)
    n, m = int(generator.integers(1, 30)), int(generator.integers(1, 12))
    # Values on a coarse grid, so that equality of zero- and one-shot happens often.
    zero = (generator.integers(-20, 0, m) / 4).astype(dtype)
    one = (generator.integers(-20, 0, (n, m)) / 4).astype(dtype)
    one[generator.random((n, m)) < 0.2] = np.nan
    one[generator.integers(n)] = np.nan
    score, error, gain, count = naive(zero, one)
    found = golden_scores(zero, one)
    np.testing.assert_array_equal(found.golden_score, score)  # a ratio of two whole numbers: no rounding to forgive
    np.testing.assert_array_equal(found.num_anchors, count)
    np.testing.assert_allclose(found.standard_error, error, rtol=1e-12)  # float64 rounding
    np.testing.assert_allclose(found.mean_gain, gain, rtol=1e-12, atol=1e-12)
    assert np.isnan(score).any()  # the case without a scored anchor was there


def test_random_cases_contain_ties():
    generator = np.random.default_rng(0)
    zero, one = generator.integers(-20, 0, 12) / 4, generator.integers(-20, 0, (30, 12)) / 4
    assert 0 < (one == zero).sum() < one.size


def test_an_equal_log_prob_is_no_win():
    zero = np.array([-1.0, -1.0, -1.0], dtype=np.float32)
    one = np.array([[-1.0, np.nextafter(np.float32(-1), np.float32(0)), np.nextafter(np.float32(-1), np.float32(-2))]])
    assert golden_scores(zero, one.astype(np.float32)).golden_score.tolist() == [1 / 3]


def test_an_unscored_pair_is_neither_win_nor_anchor():
    zero = np.array([-2.0, -2.0, -2.0, -2.0])
    one = np.array([[-1.0, np.nan, -3.0, -1.0], [-1.0, -1.0, -3.0, np.nan]])
    scores = golden_scores(zero, one)
    assert scores.num_anchors.tolist() == [3, 3]
    assert scores.golden_score.tolist() == [2 / 3, 2 / 3]
    np.testing.assert_allclose(scores.mean_gain, [1 / 3, 1 / 3], rtol=1e-15)


def test_without_a_scored_anchor_there_is_no_score():
    scores = golden_scores(np.array([-1.0, -1.0]), np.array([[np.nan, np.nan], [-0.5, -0.5]]))
    assert np.isnan([scores.golden_score[0], scores.standard_error[0], scores.mean_gain[0]]).all()
    assert scores.num_anchors.tolist() == [0, 2]
    assert scores.golden_score[1] == 1.0


def test_the_standard_error_is_never_0():
    """The plain formula said 0.000 at a golden score of 1, however few the anchors."""
    zero = np.zeros(4)
    one = np.array([[1, 1, -1, -1], [1, 1, 1, 1], [-1, -1, -1, -1], [1, -1, np.nan, np.nan]], dtype=float)
    found = golden_scores(zero, one).standard_error
    variances = [1 / 4 / 4, 6 / 8 * 2 / 8 / 8, 2 / 8 * 6 / 8 / 8, 1 / 4 / 2]
    np.testing.assert_allclose(found, np.sqrt(variances), rtol=1e-15)


@pytest.mark.parametrize("m", [27, 100])
def test_two_standard_errors_cover_the_true_score(m):
    """Over all outcomes of m anchors, exactly, by the binomial law."""
    wins = np.arange(m + 1)
    covered = []
    for errors in (standard_error(wins / m, m), np.sqrt(wins / m * (1 - wins / m) / m)):
        within = [np.abs(wins / m - p) <= 2 * errors for p in np.linspace(0.05, 0.95, 91)]
        laws = [stats.binom.pmf(wins, m, p) for p in np.linspace(0.05, 0.95, 91)]
        covered.append([law[inside].sum() for law, inside in zip(laws, within, strict=True)])
    ours, plain = covered
    assert np.mean(ours) > 0.94 and min(ours) > 0.9
    assert min(plain) < 0.88


def test_mean_gain_is_summed_in_float64():
    """In float32 the small gains would be lost beside the large one."""
    zero = np.zeros(1001, dtype=np.float32)
    one = np.full((1, 1001), 1e-4, dtype=np.float32)
    one[0, 0] = 4096.0
    expected = (4096.0 + 1000 * float(np.float32(1e-4))) / 1001
    np.testing.assert_allclose(golden_scores(zero, one).mean_gain, [expected], rtol=1e-12)
    naive_float32 = np.float32(0)
    for value in one[0]:
        naive_float32 += value
    assert abs(float(naive_float32) / 1001 - expected) > 1e-9 * expected


def test_there_is_nothing_to_count_in_an_empty_pool():
    assert golden_scores(np.zeros(3), np.zeros((0, 3))).golden_score.shape == (0,)
