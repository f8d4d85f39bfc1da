"""How golden scores go with other columns."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from nuggets_trainer.analysis.association import associate, partial_correlation


def test_a_partial_correlation_is_that_of_the_residuals():
    generator = np.random.default_rng(0)
    length = generator.normal(size=5000)
    a, b = length + generator.normal(size=5000), length + generator.normal(size=5000)
    ranks = [stats.rankdata(values) for values in (a, b, length)]
    residuals = [r - np.polyval(np.polyfit(ranks[2], r, 1), ranks[2]) for r in ranks[:2]]
    assert partial_correlation(a, b, length) == pytest.approx(np.corrcoef(*residuals)[0, 1], abs=1e-9)
    assert stats.spearmanr(a, b).statistic > 0.4 and abs(partial_correlation(a, b, length)) < 0.05


def test_columns_are_measured_by_what_they_are():
    generator = np.random.default_rng(0)
    score = generator.random(200)
    score[7] = np.nan
    length = np.arange(200.0)
    numeric = associate(score, "loss", 2 * score, length)
    assert numeric.kind == "numeric" and numeric.value == pytest.approx(1) and numeric.num_rows == 199
    binary = associate(score, "clean", score > 0.5, length)
    assert binary.kind == "binary" and binary.value == 1 and binary.means["True"] > 0.7 > binary.means["False"]
    texts = associate(score, "source", [None if i == 9 else ("a", "b", "c")[i % 3] for i in range(200)])
    assert texts.kind == "categories" and texts.value < 0.1 and texts.num_rows == 198 and len(texts.means) == 3
    assert associate(score, "length", length, length).at_equal_length is None  # it is the length
    assert associate(score, "constant", np.ones(200)) is None
    assert associate(score, "id", [f"row {i}" for i in range(200)]) is None


def test_length_alone_gives_no_auc_at_equal_length():
    generator = np.random.default_rng(0)
    length = generator.normal(size=2000)
    good = length + generator.normal(size=2000) > 0
    found = associate(length + 0.1 * generator.normal(size=2000), "good", good, length)
    assert found.value > 0.7 and found.at_equal_length == pytest.approx(0.5, abs=0.04)
    assert found.standard_error == pytest.approx(0.01, abs=0.005)


def test_numbers_with_gaps_stay_numbers():
    """A column of numbers with one None was read as texts, of which there are too many to group."""
    score = np.linspace(0, 1, 50)
    numbers = [None if i == 3 else i for i in range(50)]
    found = associate(score, "votes", numbers)
    assert found.kind == "numeric" and found.value == pytest.approx(1) and found.num_rows == 49


@pytest.mark.parametrize("values", [[["a"], ["b", "c"], [], None], np.ones((4, 2))])
def test_a_column_of_lists_is_refused_by_name(values):
    with pytest.raises(ValueError, match=r"'tags' holds lists\. Leave it out"):
        associate(np.linspace(0, 1, 4), "tags", values)
