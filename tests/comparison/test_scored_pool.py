"""What is computed before any arm is trained."""

from __future__ import annotations

import pytest

from nuggets_trainer.comparison.arms import ARMS, QUICK_ARMS
from nuggets_trainer.comparison.scored_pool import race_is_enough
from nuggets_trainer.config.nuggets_config import NuggetsConfig


@pytest.mark.parametrize(
    ("more", "require", "expected"),
    [
        ([], None, True),
        (["random_filtered"], "loss > 1", False),  # a race would leave rows out of `full` and `random`
        (["golden_filtered"], "loss > 1", False),
        (["gain"], None, False),
    ],
)
def test_a_race_is_run_only_where_all_arms_can_choose_after_it(more, require, expected):
    arms = [ARMS[name] for name in (*QUICK_ARMS, *more)]
    assert race_is_enough(NuggetsConfig(require=require), arms) == expected
