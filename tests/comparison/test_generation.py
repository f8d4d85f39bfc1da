"""Generated completions against given ones."""

from __future__ import annotations

import pytest

from nuggets_trainer.comparison.generation import compare_texts


@pytest.mark.parametrize(("metric", "right", "close"), [("exact_match", 1, 0), ("rouge_l", 1, 0.8)])
def test_generated_texts_are_held_against_the_given_ones(metric, right, close):
    assert compare_texts("a b c", "a b c", metric) == right
    assert compare_texts("a b", "a b c", metric) == pytest.approx(close)
