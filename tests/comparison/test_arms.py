"""The rows that each arm takes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from nuggets_trainer.comparison.arms import ARMS, Evidence
from nuggets_trainer.golden.scores import golden_scores


@pytest.fixture(scope="module")
def evidence():
    generator = np.random.default_rng(0)
    one_shot = generator.normal(np.linspace(-1, 1, 200)[:, None], 1, (200, 20))
    one_shot[7] = np.nan  # dropped
    lengths = generator.integers(5, 30, 200)
    return Evidence(np.zeros(20), one_shot, lengths, generator.uniform(0.5, 1.5, 200), 0.5)


def test_every_arm_takes_k_different_scored_rows(evidence):
    for name, arm in ARMS.items():
        rows = arm(evidence, 20, 3)
        assert len(rows) == len(set(rows.tolist())) == (199 if name == "full" else 20), name
        assert 7 not in rows
        np.testing.assert_array_equal(rows, arm(evidence, 20, 3))
        same = np.array_equal(np.sort(rows), np.sort(arm(evidence, 20, 4)))
        assert same != name.startswith("random"), name


def test_arms_take_what_they_say(evidence):
    scores = golden_scores(evidence.zero_shot, evidence.one_shot)
    golden, bottom = ARMS["golden"](evidence, 20, 0), ARMS["bottom"](evidence, 20, 0)
    assert scores.golden_score[golden].min() >= np.nanpercentile(scores.golden_score, 88)
    assert scores.golden_score[bottom].max() <= np.nanpercentile(scores.golden_score, 12)
    gain = np.where(np.isnan(scores.mean_gain), -np.inf, scores.mean_gain)
    assert set(ARMS["mean_gain"](evidence, 20, 0)) == set(np.argsort(-gain)[:20])
    standardised = np.where(np.isnan(scores.gain), -np.inf, scores.gain)
    assert set(ARMS["gain"](evidence, 20, 0)) == set(np.argsort(-standardised)[:20])
    given = dataclasses.replace(evidence, gain=-scores.gain)  # by the pilot of the scoring run
    assert set(ARMS["gain"](given, 20, 0)) == set(np.argsort(scores.gain)[:20])  # NaN is last
    assert evidence.lengths[ARMS["longest"](evidence, 20, 0)].min() >= np.sort(evidence.lengths)[-21]
    ifd = evidence.ifd[ARMS["ifd"](evidence, 20, 0)]
    assert ifd.max() <= 1 and ifd.min() >= np.sort(evidence.ifd[evidence.ifd <= 1])[-22]
    assert len(ARMS["ifd"](evidence, 190, 0)) == (evidence.ifd[evidence.ranked] <= 1).sum()  # there are no more
    ranking = dataclasses.replace(evidence, coverage_weight=1e-9)
    assert len(set(ARMS["coverage"](ranking, 20, 0)) & set(golden)) >= 19
    one_shot = -np.ones((20, 20))
    one_shot[:10, :12] = one_shot[10:, 12:] = 1.0  # two kinds of rows, each helps other anchors
    kinds = dataclasses.replace(evidence, one_shot=one_shot, coverage_weight=0.9)
    assert set(ARMS["golden"](kinds, 10, 0)) == set(range(10))
    assert 2 <= (ARMS["coverage"](kinds, 10, 0) >= 10).sum() <= 8


def test_length_matched_rows_have_golden_lengths(evidence):
    wanted = np.sort(evidence.lengths[ARMS["golden"](evidence, 20, 0)])
    differences, rows = [], []
    for seed in range(20):
        rows.append(ARMS["random_length"](evidence, 20, seed))
        differences.append(np.abs(np.sort(evidence.lengths[rows[-1]]) - wanted).mean())
    assert np.mean(differences) < 0.3  # tokens
    by_chance = [
        np.abs(np.sort(evidence.lengths[ARMS["random"](evidence, 20, seed)]) - wanted).mean() for seed in range(20)
    ]
    assert np.mean(by_chance) > 3 * np.mean(differences)
    assert len({tuple(sorted(r)) for r in rows}) > 15  # and they are drawn anew
    golden = set(ARMS["golden"](evidence, 20, 0).tolist())
    assert np.mean([len(golden & set(r.tolist())) for r in rows]) < 10
