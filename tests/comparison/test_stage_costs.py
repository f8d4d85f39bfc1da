"""costs.json: jobs of several sizes in one directory."""

from __future__ import annotations

import json

from nuggets_trainer.comparison.stage_costs import Spent, update_costs


def test_a_quick_comparison_is_no_measure_of_a_full_one(tmp_path):
    """It computed all of its stage, and the full one a smaller share of a much larger stage."""
    path = tmp_path / "costs.json"
    assert update_costs(path, {"signals": Spent(10.0, 1.0, 2000)}) == {"signals": 10.0}
    assert update_costs(path, {"signals": Spent(80.0, 0.8, 10_000)}) == {"signals": 100.0}
    assert json.loads(path.read_text()) == {"signals": {"seconds": 80.0, "share": 0.8, "size": 10_000}}
    # A job that computes little, or nothing, takes the seconds of the other, for as many rows as it has itself.
    assert update_costs(path, {"signals": Spent(1.0, 1.0, 100), "ica": Spent(0.1, 0.0, 100)}) == {
        "signals": 1.0, "ica": None
    }  # fmt: skip
    assert update_costs(path, {"signals": Spent(0.5, 0.0, 10_000)}) == {"signals": 100.0}


def test_costs_of_earlier_versions_have_no_size_and_stay_until_something_is_computed(tmp_path):
    path = tmp_path / "costs.json"
    path.write_text(json.dumps({"signals": {"seconds": 10.0, "share": 0.5}}))
    assert update_costs(path, {"signals": Spent(0.0, 0.0, 2000)}) == {"signals": 20.0}
    assert update_costs(path, {"signals": Spent(30.0, 0.1, 10_000)}) == {"signals": 300.0}
