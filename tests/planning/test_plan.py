"""What a plan tells, from a measurement."""

from __future__ import annotations

import dataclasses

import pytest

from nuggets_trainer.planning.plan import Plan
from nuggets_trainer.scoring.timing import Measurement, Workload


def planned(work, tokens_left, setup_seconds, finished=False):
    measured = Measurement(work, tokens_left, 1e4, 1000.0, 0.1, 0.8, setup_seconds, finished)
    dropped = {"too_long": 10}
    return Plan(1010, dropped, measured, None, "exact", True, False, "cpu", 1, 10**9, 10**8, 50, price_per_hour=3.6)


def test_a_plan_lists_no_option_that_saves_nothing():
    """Where setting up takes most of the time, a quarter of the anchors was to be "cheaper" in as many seconds."""
    work = Workload(1000, 100, 100_000, 0, 1e6)
    assert len(planned(work, (1e6, 1e6, 1e6), 20.0).cheaper()) == 4
    assert len(planned(work, (6e4, 6e4, 6e4), 300.0).cheaper()) == 3  # half of the anchors would save 30 s of 360
    # Another scorer finds nothing in the store: a tenth of all is what is left of this one's pairs.
    stored = Workload(1000, 100, 100_000, 90_000, 1e5)
    assert not any("scorer_model" in o.option for o in planned(stored, (1e5, 1e5, 1e5), 20.0).cheaper())
    assert planned(work, (1e4, 1e4, 1e4), 300.0).cheaper() == []


def test_a_plan_of_what_is_all_scored_says_so():
    """It told of 0 tokens per second, and of options that were cheaper than nothing."""
    text = planned(Workload(1000, 100, 100_000, 99_950, 1e4), (0.0, 0.0, 0.0), 20.0, finished=True).describe()
    assert "99,950 of them stored or left out before, 50 scored now to measure" in text
    assert "nothing: every pair is scored and stored" in text and "`nuggets score`" in text
    for word in ("speed", "time ", "cheaper", "tokens "):
        assert f"\n{word}" not in text


def test_a_plan_says_what_fewer_anchors_cost():
    work = Workload(1000, 100, 100_000, 0, 1e6)
    plan = planned(work, (5e5, 1e6, 1e6), setup_seconds=20.0)
    assert plan.seconds[1] == 1020 and plan.to_dict()["cost"] == pytest.approx(1.02)
    half = next(option for option in plan.cheaper() if option.option == "50 anchors")
    assert half.seconds == 520 and "0.057 instead of 0.040" in half.gives_up
    text = plan.describe()
    assert "1,010 rows, 10 cannot be scored (too_long 10)" in text and "--schedule race" in text


def test_a_plan_tells_selection_from_training():
    """300,000 tokens of rows cost 900,000 forward tokens of tuning; a fifth of the pairs was stored before."""
    work = Workload(1000, 100, 100_000, 20_000, 2e6)
    plan = dataclasses.replace(planned(work, (1e6, 2e6, 2e6), 20.0), row_tokens=3e5)
    assert plan.selection_to_training == pytest.approx((2e6 + 1e4) * 1.25 / 9e5)
    assert (
        "\nSTR       2.8: scoring takes about 2.8 times as long as one epoch of tuning on all rows" in plan.describe()
    )
    assert plan.to_dict()["selection_to_training"] == plan.selection_to_training
    assert dataclasses.replace(plan, row_tokens=None).selection_to_training is None


def test_a_plan_says_how_much_of_the_device_is_used():
    plan = planned(Workload(1000, 100, 100_000, 0, 1e6), (1e6, 1e6, 1e6), 20.0)
    assert "1,000 tokens per second on cpu, measured\n" in plan.describe()
    plan = dataclasses.replace(plan, share_of_peak=0.62)
    assert "on cpu, measured: 62% of its peak in matrix products" in plan.describe()
    assert plan.to_dict()["share_of_peak"] == 0.62
