"""How good a ranking of rows is: on anchors that it has not seen, against known kinds of rows, against other scores.

A ranking is an array of values, `(n,)`, higher is better, NaN for rows without one. Works on arrays alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats
from sklearn.metrics import roc_auc_score

from nuggets_trainer.golden.arrays import FloatArray, Ints
from nuggets_trainer.golden.scores import golden_scores

Rank = Callable[[FloatArray, FloatArray], FloatArray]  # zero-shot (m,) and one-shot (n, m) log-probs -> values (n,)


def score_on_unseen_anchors(
    zero_shot: FloatArray,
    one_shot: FloatArray,
    rank: Rank,
    num_anchors: int,
    fraction: float,
    num_splits: int = 100,
    seed: int = 0,
) -> float:
    """Choose rows by some of the anchors, and measure their golden score on other anchors.

    In each split, `num_anchors` random anchors rank the rows, and half of all anchors, none of which they are, measure
    the rows that come first.

    Args:
        zero_shot: log-probs of the anchors, `(m,)`, nats per token.
        one_shot: log-probs behind each row, `(n, m)`; every pair is scored, except a row with itself.
        rank: function that ranks the rows by some anchors.
        num_anchors: number of anchors to rank by, at most m / 2.
        fraction: share of the rows that is chosen.
        num_splits: number of random splits; the mean over them is returned.
        seed: seed of the splits. The same seed gives all rankings the same splits.

    Returns:
        0 if the chosen rows are worth as much as random rows on the unseen anchors, 1 if no others are worth more.

    Raises:
        ValueError: if `num_anchors` is more than half of the anchors.
    """
    num_rows, num_all = one_shot.shape
    num_unseen = num_all // 2
    if not 0 < num_anchors <= num_all - num_unseen:
        raise ValueError(
            f"`num_anchors` must be between 1 and {num_all - num_unseen}, which leaves {num_unseen} of {num_all} "
            f"anchors unseen, got {num_anchors}."
        )
    k = max(1, round(fraction * num_rows))
    generator = np.random.default_rng(seed)
    found = np.empty(num_splits)
    for split in range(num_splits):
        order = generator.permutation(num_all)
        seen, unseen = order[:num_anchors], order[num_all - num_unseen :]
        worth = golden_scores(zero_shot[unseen], one_shot[:, unseen]).golden_score
        chosen = in_order(rank(zero_shot[seen], one_shot[:, seen]))[:k]
        random, best = np.nanmean(worth), np.sort(worth[~np.isnan(worth)])[-k:].mean()
        found[split] = (np.nanmean(worth[chosen]) - random) / (best - random) if best > random else 0.0
    return float(found.mean())


def in_order(values: FloatArray) -> Ints:
    """Return the rows that have a value, best first; equal ones in their order."""
    order = np.argsort(-values, kind="stable")
    return order[~np.isnan(values[order])].astype(np.int64)


def auc_by_kind(values: FloatArray, kinds: Sequence[str], good: str) -> dict[str, float]:
    """Tell how often a good row is above a row of each other kind; ties count half.

    Args:
        values: the ranking, `(n,)`.
        kinds: kind of each row, `(n,)`.
        good: the kind that is good.

    Returns:
        AUC by kind, and of all other kinds together under `all`. Rows without a value are left out.
    """
    kind_of, usable = np.asarray(kinds), ~np.isnan(values)
    found = {}
    for kind in [*sorted(set(kinds) - {good}), "all"]:
        rows = usable & ((kind_of == good) | (kind == "all") | (kind_of == kind))
        found[kind] = float(roc_auc_score(kind_of[rows] == good, values[rows]))
    return found


def good_share(values: FloatArray, is_good: npt.NDArray[np.bool_], fraction: float) -> float:
    """Return the share of good rows among the first rows of a ranking.

    Args:
        values: the ranking, `(n,)`; NaN for rows that a filter left out.
        is_good: whether each row is good, `(n,)`.
        fraction: number of first rows, as a share of all n rows.
    """
    chosen = in_order(values)[: max(1, round(fraction * len(values)))]
    return float(is_good[chosen].mean())


def correlation_with_interval(
    values: FloatArray, column: FloatArray, num_draws: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Return Spearman's rank correlation and its 95% bootstrap interval over rows.

    Args:
        values: the ranking, `(n,)`.
        column: values to compare with, `(n,)`; rows where either is NaN are left out.
        num_draws: number of draws of rows.
        seed: seed of the draws.
    """
    usable = ~(np.isnan(values) | np.isnan(column))
    a, b = values[usable], column[usable]
    generator = np.random.default_rng(seed)
    drawn = np.empty(num_draws)
    for draw in range(num_draws):
        rows = generator.integers(0, len(a), len(a))
        drawn[draw] = _spearman(a[rows], b[rows])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return _spearman(a, b), float(low), float(high)


def _spearman(a: FloatArray, b: FloatArray) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(stats.spearmanr(a, b).statistic)
