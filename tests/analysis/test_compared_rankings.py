"""Rankings compared with what is known, on simulated rows of known truth."""

from __future__ import annotations

import numpy as np
import pytest

from nuggets_trainer.analysis.compared_rankings import auc_of_rankings, correlation_by_anchors, share_of_pairs

NAMES = ("golden_score", "mean_gain")


def simulated(n, m, generator, disagreement=0.5):
    """Return log-probs and a column: anchors differ in how much a row's worth helps them."""
    worth = generator.normal(size=n)
    helps = 1 + disagreement * generator.normal(size=m)
    gains = worth[:, None] * helps + 2 * generator.normal(size=(n, m))
    return np.full(m, -2.0), gains - 2, worth + generator.normal(size=n)


def truth(number, generator, choices=60):
    """Return the mean correlation of the mean gain over choices of anchors, on many rows."""
    found = []
    for _ in range(choices):
        zero_shot, one_shot, column = simulated(2000, number, generator)
        gain = (one_shot - zero_shot).mean(axis=1)
        found.append(np.corrcoef(gain.argsort().argsort(), column.argsort().argsort())[0, 1])
    return np.mean(found)


def test_correlations_rise_with_the_anchors_to_the_truth():
    generator = np.random.default_rng(0)
    zero_shot, one_shot, column = simulated(1500, 16, generator, disagreement=0)
    by_name = {}
    for found in correlation_by_anchors(zero_shot, one_shot, column, NAMES, (2, 16), num_draws=20):
        by_name[found.ranking, found.num_anchors] = found
    for number in (2, 16):
        gain = by_name["mean_gain", number]
        signal = number / (number + 4)  # share of the variance of a mean gain that is worth
        true = 6 / np.pi * np.arcsin(np.sqrt(signal / 2) / 2)
        assert gain.quality.value == pytest.approx(true, abs=0.04)
        assert gain.difference.value == pytest.approx(
            gain.quality.value - by_name["golden_score", number].quality.value
        )
        assert gain.difference.low > 0  # the size of a gain tells more than its sign
        assert by_name["golden_score", number].difference is None


def test_differences_are_narrower_than_their_parts():
    """Two rankings get the same draws of rows and anchors."""
    zero_shot, one_shot, column = simulated(300, 8, np.random.default_rng(1))
    _, gain = correlation_by_anchors(zero_shot, one_shot, column, NAMES, (8,), num_draws=60)
    assert gain.difference.high - gain.difference.low < 0.7 * (gain.quality.high - gain.quality.low)


def test_anchors_that_disagree_widen_the_interval():
    widths = []
    for disagreement in (0.0, 2.0):
        data = simulated(400, 8, np.random.default_rng(2), disagreement)
        found = correlation_by_anchors(*data, ("mean_gain",), (2,), num_draws=60)
        widths.append(found[0].quality.high - found[0].quality.low)
    assert widths[1] > 1.5 * widths[0]


def test_given_rankings_use_the_same_rows():
    zero_shot, one_shot, column = simulated(200, 4, np.random.default_rng(3))
    length = np.where(np.arange(200) < 20, np.nan, column)
    column[150:] = np.nan
    one_shot[140:150] = np.nan
    found = correlation_by_anchors(zero_shot, one_shot, column, ("gain",), (4,), {"length": length}, num_draws=20)
    same = correlation_by_anchors(zero_shot, one_shot[20:140], column[20:140], ("gain",), (4,), num_draws=20)
    assert found[0].quality.value == same[0].quality.value
    assert (found[1].ranking, found[1].num_anchors) == ("length", None)
    assert found[1].quality.value == pytest.approx(1) and found[1].difference.low > 0


@pytest.mark.slow  # 80 bootstraps
@pytest.mark.parametrize("number", [2, 12])
def test_intervals_cover_the_truth(number):
    generator = np.random.default_rng(4)
    true = truth(number, generator, choices=300)
    covered = []
    for seed in range(80):
        data = simulated(200, 12, generator)
        found = correlation_by_anchors(*data, ("mean_gain",), (number,), num_draws=150, seed=seed)
        covered.append(found[0].quality.low < true < found[0].quality.high)
    assert np.mean(covered) >= 0.9


def rated(generator, groups=60, noise=1.0):
    column = np.tile([0.0, 1.0, 2.0], groups)
    names = [f"request {group}" for group in range(groups) for _ in range(3)]
    level = np.repeat(generator.normal(size=groups) * 50, 3)  # between requests nothing can be compared
    return column + noise * generator.normal(size=3 * groups) + level, column, names


def test_share_of_pairs_compares_within_groups():
    generator = np.random.default_rng(0)
    values, column, groups = rated(generator)
    constant, noise = np.zeros(180), generator.normal(size=180)
    good, tied, random = share_of_pairs({"good": values, "tied": constant, "random": noise}, column, groups)
    true = (2 * 0.760 + 0.921) / 3  # normal cdf of 1 / sqrt(2) and of 2 / sqrt(2)
    assert good.quality.low < true < good.quality.high and good.quality.high - good.quality.low < 0.16
    assert tied.quality == (0.5, 0.5, 0.5) and random.difference.high < 0 and good.difference is None
    assert share_of_pairs({"by hand": np.array([1.0, 1, 2, 0])}, np.array([0.0, 1, 1, np.nan]), ["a"] * 4)[
        0
    ].quality.value == pytest.approx(0.75)
    with pytest.raises(ValueError, match="No group has two rows of different quality"):
        share_of_pairs({"good": values}, np.ones(180), groups)


def test_the_interval_of_a_share_of_pairs_covers_it():
    generator = np.random.default_rng(5)
    covered = []
    for seed in range(40):
        values, column, groups = rated(generator)
        found = share_of_pairs({"good": values}, column, groups, num_draws=200, seed=seed)[0].quality
        covered.append(found.low < (2 * 0.760 + 0.921) / 3 < found.high)
    assert np.mean(covered) >= 0.88


def test_auc_is_a_share_of_pairs_with_a_paired_difference():
    generator = np.random.default_rng(0)
    is_good = np.arange(120) % 2 == 0
    covered, widths = [], []
    for seed in range(20):
        values = is_good + generator.normal(size=120)
        blurred = values + 0.5 * generator.normal(size=120)
        sharp, worse = auc_of_rankings({"a": values, "b": blurred}, is_good, num_draws=60, seed=seed)
        assert sharp.quality.value == pytest.approx((values[is_good][:, None] > values[~is_good]).mean())
        covered.append(sharp.quality.low < 0.760 < sharp.quality.high)  # the normal cdf of 1 / sqrt(2)
        widths.append([found.high - found.low for found in (sharp.quality, worse.difference)])
    assert np.mean(covered) >= 0.85
    of_quality, of_difference = np.mean(widths, axis=0)
    assert of_difference < 0.8 * of_quality
