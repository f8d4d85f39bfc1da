"""The rows that each arm takes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from nuggets_trainer.comparison.arms import ARMS, FILTERED, choose_all_rows
from nuggets_trainer.comparison.evidence import Evidence
from nuggets_trainer.golden.diversity import Diversity
from nuggets_trainer.golden.ranking import rank_candidates
from nuggets_trainer.golden.scores import golden_scores
from nuggets_trainer.golden.selection import select_golden_set

DROPPED = 7


@pytest.fixture(scope="module")
def evidence():
    generator = np.random.default_rng(0)
    one_shot = generator.normal(np.linspace(-1, 1, 200)[:, None], 1, (200, 20))
    one_shot[DROPPED] = np.nan
    columns = {
        "num_tokens": generator.integers(5, 30, 200).astype(float),
        "ifd": generator.uniform(0.5, 1.5, 200),
        "loss": generator.uniform(1, 4, 200),
        "similarity_turn": generator.permutation(200).astype(float),
        "ica": generator.uniform(-1, 1, 200),
        "prompt": np.repeat(np.arange(50.0), 4),
    }
    columns["similarity_turn"][150] = np.nan  # a row that cannot be rendered alone
    scores = golden_scores(np.zeros(20), one_shot)
    usable = np.delete(np.arange(200), DROPPED)
    return Evidence(scores, usable, columns, np.zeros(20), one_shot, meets_require=columns["ifd"] < 0.9)


def rows_of(evidence, name, k=20, seed=0):
    return ARMS[name].choose(evidence, k, seed)


def test_every_arm_takes_k_different_usable_rows(evidence):
    for name, arm in ARMS.items():
        rows = rows_of(evidence, name, seed=3)
        assert len(rows) == len(set(rows.tolist())) == (20 if arm.has_size else 199), name
        assert DROPPED not in rows
        np.testing.assert_array_equal(rows, rows_of(evidence, name, seed=3))
        same = np.array_equal(np.sort(rows), np.sort(rows_of(evidence, name, seed=4)))
        assert same != name.startswith("random"), name


def test_arms_by_golden_scores_take_what_they_say(evidence):
    scores = evidence.scores
    golden, bottom = rows_of(evidence, "golden"), rows_of(evidence, "bottom")
    assert scores.golden_score[golden].min() >= np.nanpercentile(scores.golden_score, 88)
    assert scores.golden_score[bottom].max() <= np.nanpercentile(scores.golden_score, 12)
    for name in ("gain", "mean_gain"):
        assert rows_of(evidence, name).tolist() == rank_candidates(scores, name)[:20].tolist()
    ranking = dataclasses.replace(evidence, coverage_weight=1e-9)
    assert len(set(rows_of(ranking, "coverage")) & set(golden)) >= 19


def test_coverage_takes_rows_that_help_other_anchors():
    one_shot = -np.ones((20, 20))
    one_shot[:10, :12] = one_shot[10:, 12:] = 1.0  # two kinds of rows, each helps other anchors
    scores = golden_scores(np.zeros(20), one_shot)
    kinds = Evidence(scores, np.arange(20), {}, np.zeros(20), one_shot, coverage_weight=0.9)
    assert set(rows_of(kinds, "golden", 10)) == set(range(10))
    assert 2 <= (rows_of(kinds, "coverage", 10) >= 10).sum() <= 8


def test_arms_by_columns_take_what_they_say(evidence):
    columns = {name: values[evidence.usable] for name, values in evidence.columns.items()}
    assert evidence.columns["num_tokens"][rows_of(evidence, "longest")].min() >= np.sort(columns["num_tokens"])[-20]
    assert evidence.columns["loss"][rows_of(evidence, "lowest_loss")].max() == np.sort(columns["loss"])[19]
    turn = evidence.columns["similarity_turn"]
    assert turn[rows_of(evidence, "similarity")].tolist() == np.sort(columns["similarity_turn"])[:20].tolist()
    assert 150 not in rows_of(evidence, "similarity", 199)  # it has no value
    ifd = evidence.columns["ifd"][rows_of(evidence, "ifd")]
    assert ifd.max() <= 1 and ifd.min() == np.sort(columns["ifd"][columns["ifd"] <= 1])[-20]
    assert len(rows_of(evidence, "ifd", 190)) == (columns["ifd"] <= 1).sum()  # there are no more


def test_filtered_arms_choose_among_rows_that_meet_the_condition(evidence):
    meeting = np.flatnonzero(evidence.meets_require)
    for name in FILTERED:
        assert set(rows_of(evidence, name)) <= set(meeting)
        assert len(rows_of(evidence, name, 190)) == len(meeting)  # there are no more
    best = [row for row in evidence.ranked if evidence.meets_require[row]]
    assert rows_of(evidence, "golden_filtered").tolist() == best[:20]


def test_length_matched_rows_have_golden_lengths(evidence):
    tokens = evidence.columns["num_tokens"]
    wanted = np.sort(tokens[rows_of(evidence, "golden")])
    differences, by_chance, rows = [], [], []
    for seed in range(20):
        rows.append(rows_of(evidence, "random_length", seed=seed))
        differences.append(np.abs(np.sort(tokens[rows[-1]]) - wanted).mean())
        by_chance.append(np.abs(np.sort(tokens[rows_of(evidence, "random", seed=seed)]) - wanted).mean())
    assert np.mean(differences) < 0.3  # tokens
    assert np.mean(by_chance) > 3 * np.mean(differences)
    assert len({tuple(sorted(r)) for r in rows}) > 15  # and they are drawn anew
    golden = set(rows_of(evidence, "golden").tolist())
    assert np.mean([len(golden & set(r.tolist())) for r in rows]) < 10


def test_best_rows_of_each_length_have_the_lengths_of_the_pool(evidence):
    tokens = evidence.columns["num_tokens"]
    rows = rows_of(evidence, "golden_by_length")
    expected = select_golden_set(evidence.scores, ("top_k", 20), diversity=Diversity(lengths=tokens))
    assert rows.tolist() == expected.indices.tolist() != rows_of(evidence, "golden").tolist()


def test_best_rows_of_each_prompt_are_those_of_the_option(evidence):
    prompts = evidence.columns["prompt"].astype(np.int64)
    for most in (1, 2):
        rows = rows_of(dataclasses.replace(evidence, max_rows_per_prompt=most), "golden_by_prompt")
        limited = Diversity(prompts=prompts, max_rows_per_prompt=most)
        expected = select_golden_set(evidence.scores, ("top_k", 20), diversity=limited)
        assert rows.tolist() == expected.indices.tolist() != rows_of(evidence, "golden").tolist()
    assert len(rows_of(evidence, "golden_by_prompt", 199)) == 50  # there are no more prompts


def test_all_rows_are_chosen_before_any_run(evidence):
    chosen = choose_all_rows(evidence, [ARMS["golden"], ARMS["full"], ARMS["random"]], [0.05, 0.1], [0, 1])
    assert [(own.arm.name, own.fraction) for own in chosen] == [
        ("full", None), ("golden", 0.05), ("random", 0.05), ("golden", 0.1), ("random", 0.1)
    ]  # fmt: skip
    assert [len(own.rows[0]) for own in chosen] == [199, 10, 10, 20, 20]
    assert chosen[1].golden_share == 1 and chosen[2].golden_share < 0.5
    nothing = dataclasses.replace(ARMS["ifd"], choose=lambda *_: np.array([], dtype=np.int64))
    with pytest.raises(ValueError, match="The arm `ifd` found no row at all"):
        choose_all_rows(evidence, [nothing], [0.1], [0])
