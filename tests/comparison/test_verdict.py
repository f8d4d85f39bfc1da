"""The verdict of a comparison, on simulated runs whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from nuggets_trainer.analysis.bootstrap import Bootstrap
from nuggets_trainer.comparison.table import ArmResult
from nuggets_trainer.comparison.verdict import make_verdict

RIVALS = ["lowest_loss", "ifd"]
TOKENS = np.random.default_rng(0).integers(1, 20, 80)


def simulated(generator, levels, num_seeds=5, fractions=(0.1,)):
    """Results whose true losses are `levels`; rows, seeds, and both together add chance."""
    rows = generator.normal(0, 0.5, 80)
    results = []
    for arm, level in levels.items():
        for fraction in [None] if arm == "full" else fractions:
            seeds = generator.normal(0, 0.01, (num_seeds, 1))
            losses = level + rows + seeds + generator.normal(0, 0.05, (num_seeds, 80))
            results.append(ArmResult(arm, arm.replace("_", " "), fraction, 10, None, losses, 1.0, 1.0, 5))
    return results


def verdict_on(levels, seed, num_seeds=5, fractions=(0.1,)):
    results = simulated(np.random.default_rng(seed), levels, num_seeds, fractions)
    return make_verdict(results, Bootstrap(TOKENS, num_seeds, 100), RIVALS)


@pytest.mark.parametrize("seed", range(10))
def test_a_known_winner_wins(seed):
    """Golden beats random rows and all rows, and the best of its rivals."""
    levels = {"golden": 1.0, "full": 1.2, "random": 1.3, "lowest_loss": 1.15, "ifd": 1.6}
    found = verdict_on(levels, seed)
    assert [one.outcome for one in found.weighed] == ["better"] * 3
    assert [one.opponent for one in found.weighed] == ["random", "full", "lowest_loss"]
    assert found.sentence.startswith("At 10% of the pool, the golden beats random by 0.")
    assert 'it beats "lowest loss", the best of 2 rivals, by 0.1' in found.sentence


@pytest.mark.parametrize("seed", range(10))
def test_a_known_tie_is_no_win(seed):
    """Golden beats random rows, and is worth what the rows of lowest loss are."""
    levels = {"golden": 1.0, "random": 1.3, "lowest_loss": 1.0, "ifd": 1.6}
    found = verdict_on(levels, seed)
    assert [one.outcome for one in found.weighed] == ["better", "not different"]
    assert 'it is not different from "lowest loss", the best of 2 rivals' in found.sentence


def test_a_win_that_length_explains_is_called_so():
    """A win over plain random rows may be length alone; it is weighed apart from the rivals."""
    levels = {"golden": 1.0, "random": 1.3, "random_length": 1.0, "lowest_loss": 1.2}
    right = 0
    for seed in range(10):  # one interval of 20 is expected to miss
        found = verdict_on(levels, seed)
        assert [one.opponent for one in found.weighed] == ["random", "lowest_loss", "random_length"]
        if found.weighed[-1].outcome == "not different":
            right += 1
            assert "It is not different from random rows of the same lengths (" in found.sentence
            assert found.sentence.endswith("), so its win over random rows may come from length alone.")
    assert right >= 8


@pytest.mark.parametrize("seed", range(5))
def test_a_win_over_rows_of_its_lengths_is_more_than_length(seed):
    levels = {"golden": 1.0, "random": 1.3, "random_length": 1.3, "lowest_loss": 1.2}
    sentence = verdict_on(levels, seed).sentence
    assert "It beats random rows of the same lengths by 0." in sentence
    assert sentence.endswith("], so length alone does not explain its win over random rows.")


@pytest.mark.parametrize("num_seeds", [1, 5])
def test_length_explains_nothing_where_nothing_was_won(num_seeds):
    found = verdict_on({"golden": 1.3, "random": 1.3, "random_length": 1.0}, 0, num_seeds)
    assert "random rows of the same lengths" in found.sentence and "so " not in found.sentence
    sizes = verdict_on({"golden": 1.0, "random": 1.3, "random_length": 1.0}, 0, fractions=(0.05, 0.1)).sentence
    assert sizes.endswith("lengths at any of them, so its win over random rows may come from length alone.")
    alone = verdict_on({"golden": 1.0, "random_length": 1.3}, 0).sentence
    assert alone.startswith("At 10% of the pool, the golden beats random length by 0.") and "It beats" not in alone
    assert "lengths" not in verdict_on({"gain": 1.0, "random": 1.3, "random_length": 1.0}, 0).sentence


def test_a_condition_that_does_it_alone_is_told():
    """Random rows that meet the condition are the control of the golden rows among them."""
    levels = {"golden": 1.3, "random": 1.3, "golden_filtered": 1.0, "gain_filtered": 1.2, "random_filtered": 1.0}
    found = verdict_on(levels, 0)
    outcomes = {arm: [one.outcome for one in weighed] for arm, weighed in found.filtered.items()}
    assert outcomes == {"golden_filtered": ["not different"], "gain_filtered": ["worse"]}
    assert 'meet the condition, "golden filtered" is not different from random rows (' in found.sentence
    assert 'meet the condition, "gain filtered" is worse than random rows by 0.' in found.sentence
    del levels["random_filtered"]
    assert "condition" not in verdict_on(levels, 0).sentence


@pytest.mark.parametrize("num_seeds", [1, 3])
@pytest.mark.parametrize("fractions", [(0.1,), (0.1, 0.2)])
def test_no_comma_stands_before_a_full_stop(num_seeds, fractions):
    levels = {"golden": 1.0, "random": 1.0, "lowest_loss": 1.0, "ifd": 1.6}
    sentence = verdict_on(levels, 0, num_seeds, fractions).sentence
    assert '"lowest loss", the best of 2 rivals' in sentence and ",." not in sentence and ",;" not in sentence


def test_ties_are_rarely_called_wins():
    """The best rival is chosen by its loss, so its interval has to allow for the choice."""
    tie = dict.fromkeys(("golden", "random", "full", "lowest_loss", "ifd"), 1.0)
    outcomes = np.array([[one.outcome for one in verdict_on(tie, seed, num_seeds=3).weighed] for seed in range(120)])
    wrong = outcomes != "not different"
    assert wrong[:, 2].mean() <= 0.05 and wrong.mean() <= 0.08  # 360 outcomes: 0.05 is expected, +- 0.012


def test_a_golden_set_that_is_worse_is_called_so():
    found = verdict_on({"golden": 1.5, "random": 1.0, "full": 1.2}, 0)
    assert [one.outcome for one in found.weighed] == ["worse", "worse"]
    assert "is worse than random by 0.4" in found.sentence or "is worse than random by 0.5" in found.sentence
    assert 0 < found.resolution < 0.1


def test_several_sizes_are_one_sentence():
    levels = {"golden": 1.0, "random": 1.3, "lowest_loss": 1.0}
    sentence = verdict_on(levels, 0, fractions=(0.05, 0.1, 0.25)).sentence
    assert sentence.startswith("At 3 sizes, the golden beats random at each, by 0.2")
    assert 'it is not different from "lowest loss" at any of them.' in sentence


def test_outcomes_that_differ_name_their_sizes():
    generator, bootstrap = np.random.default_rng(0), Bootstrap(TOKENS, 5, 100)
    results = []
    for fraction, level in ((0.05, 1.0), (0.1, 1.3), (0.25, 1.0)):
        results += simulated(generator, {"golden": level, "random": 1.3}, fractions=(fraction,))
    sentence = make_verdict(results, bootstrap, RIVALS).sentence
    assert "beats random at 5% and 25% and is not different from it at 10%" in sentence


def test_one_seed_gives_no_verdict():
    found = verdict_on({"golden": 1.0, "random": 1.3, "lowest_loss": 1.0}, 0, num_seeds=1)
    assert {one.outcome for one in found.weighed} == {"unknown"} and found.resolution is None
    assert "One seed cannot tell" in found.sentence and "[" not in found.sentence


def test_without_a_golden_set_the_best_arm_is_named():
    found = verdict_on({"random": 1.3, "lowest_loss": 1.0}, 0)
    assert found.arm is None and found.sentence.endswith("The lowest held-out loss is that of: lowest loss.")
