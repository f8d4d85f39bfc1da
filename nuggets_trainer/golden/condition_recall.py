"""How much of a golden set meets a condition, told by random rows whose scores are known."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import stats

from nuggets_trainer.golden.arrays import Bools
from nuggets_trainer.golden.ranking import rank_candidates
from nuggets_trainer.golden.scores import GoldenScores

FEWEST_GOLDEN = 30  # rows of the sample's golden set; the share of 30 is off by 0.05 where it is 0.9 (one deviation)
ENOUGH_GOLDEN = 100  # off by 0.03; so many are taken where they are cheap
CHEAP = 0.01  # share of the rows


@dataclass(frozen=True)
class ConditionRecall:
    """The share of a golden set that meets a condition.

    Attributes:
        num_rows: number of random rows that it was measured on.
        num_golden: number of the best of these rows: their golden set without the condition.
        num_met: number of those that meet the condition.
        low: lower end of the 95% interval of the share.
        high: upper end of it.
    """

    num_rows: int
    num_golden: int
    num_met: int
    low: float
    high: float

    @property
    def recall(self) -> float:
        """Share of the golden set that meets the condition, in [0, 1]."""
        return self.num_met / self.num_golden


def rows_to_score(fraction: float, num_rows: int) -> int:
    """Return how many random rows tell the recall of a condition.

    Args:
        fraction: share of the rows that the golden set has, above 0.
        num_rows: number of rows to draw from.

    Returns:
        So many that 30 of them belong to the golden set, or up to 100 as long as they are at most 1% of all rows; all
        rows of a small pool.

    Example:
        >>> [rows_to_score(0.1, num_rows) for num_rows in (200, 2_000, 52_000, 10_000_000)]
        [200, 300, 520, 1000]
    """
    fewest, enough = math.ceil(FEWEST_GOLDEN / fraction), math.ceil(ENOUGH_GOLDEN / fraction)
    return min(num_rows, max(fewest, min(enough, int(CHEAP * num_rows))))


def recall_of_condition(
    scores: GoldenScores, met: Bools, fraction: float, rank_by: str, is_whole_pool: bool = False
) -> ConditionRecall:
    """Measure which share of the best rows meets a condition.

    The best rows are those of these scores. Scores of other anchors choose other rows, so this is the share of the
    golden set that these anchors choose, and not of the rows that help most on average over all anchors.

    Args:
        scores: scores of p random rows.
        met: whether each row meets the condition, `(p,)`.
        fraction: share of the rows that the golden set has, above 0.
        rank_by: value that rows are ranked by.
        is_whole_pool: whether the rows are all that there are, so that the share is exact.

    Returns:
        The share with its interval, that of Wilson for a share of independent rows.

    Raises:
        ValueError: if no row has a score.

    Example:
        >>> import numpy as np
        >>> from nuggets_trainer.golden.scores import golden_scores
        >>> scores = golden_scores(np.zeros(1), np.arange(100.0)[:, None])
        >>> found = recall_of_condition(scores, np.arange(100) < 95, 0.1, "mean_gain")
        >>> found.num_golden, found.num_met, round(found.low, 2), round(found.high, 2)
        (10, 5, 0.24, 0.76)
    """
    ranked = rank_candidates(scores, rank_by)
    if not len(ranked):
        raise ValueError(f"None of {len(met):,} random rows has a score, so nothing can be said of the condition.")
    golden = ranked[: max(1, round(fraction * len(ranked)))]
    num_met = int(met[golden].sum())
    low = high = num_met / len(golden)
    if not is_whole_pool:
        low, high = stats.binomtest(num_met, len(golden)).proportion_ci(method="wilson")
    return ConditionRecall(len(ranked), len(golden), num_met, float(low), float(high))
