"""How fast scoring goes, from the calls of the engine."""

from __future__ import annotations

import pytest

from nuggets_trainer.scoring.timing import speed_of, time_left


def test_a_steady_speed_is_found_and_an_unsteady_one_widens_the_bounds():
    steady, unsteady = [(100, 1.0)] * 6, [(100, 0.5), (100, 1.5)] * 3
    assert speed_of(steady) == (100.0, 0.1)
    assert speed_of(unsteady)[1] > 0.3


def test_the_bounds_of_the_time_take_in_those_of_the_speed():
    assert time_left((100.0, 200.0, 300.0), 10.0, 0.25) == pytest.approx((8.0, 20.0, 37.5))
    assert time_left((0.0, 0.0, 0.0), 0.0, 0.25) == (0.0, 0.0, 0.0)  # nothing was scored to measure
