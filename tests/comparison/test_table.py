"""The table of a comparison."""

from __future__ import annotations

import numpy as np
import pytest

from nuggets_trainer.analysis.bootstrap import Bootstrap
from nuggets_trainer.comparison.table import ArmResult, make_lines, to_markdown


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_the_table_shows_spread_where_there_is_some(num_seeds):
    """One seed printed `+- 0.0000`, and so did the base model, which no seed changes."""
    generator = np.random.default_rng(0)
    runs = {arm: generator.random((num_seeds, 20)) for arm in ("full", "golden", "random")}
    runs["base"] = np.tile(generator.random(20), (num_seeds, 1))
    results = []
    for arm, losses in runs.items():
        fraction = None if arm in ("base", "full") else 0.1
        results.append(ArmResult(arm, f"rows of {arm}", fraction, 5, None, losses, 0.0, 1.0, 3))
    lines = make_lines(results, Bootstrap(np.ones(20, dtype=np.int64), num_seeds, 50), 1)
    text = to_markdown(lines)
    rows = {line.arm: row for line, row in zip(lines, text.splitlines()[2:], strict=True)}
    assert "+- 0.0000" not in text and "+-" not in rows["base"]
    assert "rows of golden" in rows["golden"] and ("+-" in rows["golden"]) == (num_seeds > 1)
    assert rows["golden"].count("[") == (0 if num_seeds == 1 else 2)  # minus random, minus full
