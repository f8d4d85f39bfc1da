"""Conditions of `require`: what is understood, what is refused and how, and rows that lack a value."""

from __future__ import annotations

import numpy as np
import pytest

from nuggets_trainer.config import NuggetsConfig
from nuggets_trainer.config.requirement import MODEL_SIGNALS, ROW_SIGNALS, Requirement, known_columns

COLUMNS = {
    "ifd": np.array([0.5, 0.9, 1.1, np.nan]),
    "num_tokens": np.array([3.0, 9.0, 9.0, 9.0]),
    "golden_score": np.array([0.2, np.nan, 0.9, 0.9]),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ifd < 0.9", [1, 0, 0, 0]),
        ("ifd <= 0.9", [1, 1, 0, 0]),
        ("0.9 <= ifd", [0, 1, 1, 0]),
        ("0.6 < ifd <= 1", [0, 1, 0, 0]),
        ("ifd == 1.1", [0, 0, 1, 0]),
        ("ifd != 1.1", [1, 1, 0, 0]),
        ("ifd > -1 and num_tokens > 5", [0, 1, 1, 0]),
        ("ifd < 0.6 or num_tokens > 5", [1, 1, 1, 0]),
        ("not (ifd < 0.6 or ifd > 1)", [0, 1, 0, 0]),
        ("golden_score > 0.1 or ifd > 0", [1, 0, 1, 0]),
        (" ifd<+1e0 ", [1, 1, 0, 0]),
        ("ifd * 1 < 1", None),
    ],
)
def test_a_row_without_a_value_never_meets_a_condition(text, expected):
    if expected is None:
        with pytest.raises(ValueError, match="neither a column nor a number"):
            Requirement(text)
        return
    assert Requirement(text).passes(COLUMNS).tolist() == [bool(met) for met in expected]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ifd", "'ifd' is no comparison"),
        ("ifd <", "invalid syntax"),
        ("", "non-empty string|invalid syntax"),
        ("1 < 2", "'1 < 2' names no column"),
        ("ifd < 1 and 2", "'2' is no comparison"),
        ("ifd < abs(-1)", r"'abs\(-1\)' is neither a column nor a number"),
        ("__import__('os').remove('x') < 1", "is neither a column nor a number"),
        ("scores.ifd < 1", "'scores.ifd' is neither"),
        ("ifd['x'] < 1", "is neither"),
        ("(lambda: 1) < ifd", "is neither"),
        ("ifd < True", "'True' is neither"),
        ("ifd < 1j", "'1j' is neither"),
        ("ifd < '1'", "is neither"),
        ("ifd in (1, 2)", "compares by something else"),
        ("ifd is 1", "compares by something else"),
        ("ifd := 1", "invalid syntax"),
        ("ifd < 1; ifd", "invalid syntax"),
        ("ifd < 10**9", "is neither"),
        ("ifd\0 < 1", "null bytes"),
        ("not " * 5000 + "ifd < 1", "`require` must compare"),
        ("(" * 500 + "ifd < 1" + ")" * 500, "`require` must compare"),
        ("ifd < " + "9" * 5000, "`require` must compare"),
        ("p10 < p50", "'p10 < p50' names no column"),
        ("p12 < 3", "'p12 < 3' names no column"),
        ("loss < p50 < p90", "the percentile 'p50' must be compared with a column, whose .* got 'p90'"),
        ("loss < p12 < 3", "the percentile 'p12' must be compared with a column, whose .* got '3'"),
        ("loss < p101", "'p101' must be one of the percentiles p0 to p100"),
        ("loss < p12.5", "invalid syntax"),
        ("loss < -p50", "'p50' is neither a column nor a number"),
        ("loss < p50 or golden_score < p50", "'golden_score' is known only when all pairs are scored"),
        ("p50 < golden_score_math", "'golden_score_math' is known only when all pairs are scored"),
    ],
)
def test_all_else_is_refused_with_the_columns_that_there_are(text, problem):
    with pytest.raises((ValueError, TypeError), match=problem) as raised:
        NuggetsConfig(require=text)
    assert len(str(raised.value)) < 1000
    if text:
        assert "`require`" in str(raised.value) and "loss_without_prompt" in str(raised.value)


def test_a_percentile_is_one_of_the_column_beside_it():
    requirement = Requirement("p10 < loss <= p12 or not ifd > p10 or (loss < p50 and p50 > loss)")
    assert requirement.columns == ("loss", "ifd")
    assert set(requirement.percentiles) == {("loss", 10), ("loss", 12), ("loss", 50), ("ifd", 10)}
    assert not requirement.needs_scores
    assert Requirement("loss < p50 < ifd").percentiles == (("loss", 50), ("ifd", 50))
    with pytest.raises(ValueError, match="names 'lfd', which is no column"):
        NuggetsConfig(require="lfd < p50")


def test_an_unknown_column_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="names 'lfd', which is no column.*The columns are loss, .*golden_score"):
        NuggetsConfig(require="lfd < 1")
    assert NuggetsConfig(require="golden_score_math > 0.5").requirement.needs_scores  # sets may be given later


def test_signals_are_wanted_where_a_condition_names_one():
    assert not NuggetsConfig().wants_row_signals
    assert not NuggetsConfig(require="mean_gain > 0").wants_row_signals
    assert NuggetsConfig(row_signals=True).wants_row_signals
    for name in MODEL_SIGNALS:
        assert NuggetsConfig(require=f"{name} > 0").wants_row_signals
    assert not NuggetsConfig(require="repetition < 0.3").wants_row_signals  # it is read from the text
    assert NuggetsConfig(require="repetition < 0.3").schedule_in_force == "race"
    assert set(ROW_SIGNALS) < set(known_columns(["math"])) and "golden_score_math" in known_columns(["math"])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"require": None}, "there is none. Give a condition"),
        ({"require": "gain > 0"}, "names scores, which are known only"),
        ({"top_k": None, "threshold": 0.5}, "`threshold=0.5` does not"),
        ({"group_by": "source"}, "with `group_by=source` the golden set has other rows too"),
        ({"max_similarity": 0.9}, "with `max_similarity=0.9` the golden set has other rows too"),
        ({"max_rows_per_prompt": 1}, "with `max_rows_per_prompt=1` the golden set has other rows too"),
        ({"reselect": "epoch"}, "is measured once, but with `reselect=epoch`"),
        ({"rank_by": "ifd"}, "`require_recall=0.9` needs scored pairs"),
        ({"require_recall": 0}, r"must be a share of the golden set in \(0, 1\], got 0"),
        ({"require_recall": "0.9"}, "`require_recall` must be a number"),
    ],
)
def test_a_recall_is_asked_of_what_can_be_measured(options, problem):
    asked = {"require": "loss < p50", "require_recall": 0.9, "top_k": 3}
    assert NuggetsConfig(**asked).schedule_in_force == "race"
    with pytest.raises((ValueError, TypeError), match=problem):
        NuggetsConfig(**{**asked, **options})
