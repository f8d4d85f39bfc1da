"""What a schedule found -> golden scores of the whole pool, and the reasons of rows that have none. Knows no model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nuggets_trainer.golden.scores import AnchorScores, GoldenScores, combined_scores, golden_scores
from nuggets_trainer.prompts.shared_prefix import AnchorSet
from nuggets_trainer.scoring.anchors import anchor_scores
from nuggets_trainer.scoring.pairs import BLOCK
from nuggets_trainer.store.scratch import Scratch


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the main process knows when a schedule is through, over the candidates in pool order.

    Attributes:
        zero_shot: log-probs of the usable anchors, `(m,)`.
        one_shot: log-probs of the different candidates, `(r, m)`, perhaps in a file; NaN where not scored.
        row: of each candidate its row in `one_shot`, `(c,)`: equal candidates share one.
        excluded: pairs of a candidate with itself, `(c, m)`.
        upper_bound: of candidates that a race eliminated, the golden score if they won all that is left, `(c,)`; NaN
            for the others.
    """

    zero_shot: npt.NDArray[np.float32]
    one_shot: npt.NDArray[np.float32]
    row: npt.NDArray[np.int64]
    excluded: npt.NDArray[np.bool_]
    upper_bound: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Collected:
    """An outcome in the places of the n pool rows and all m anchors.

    Attributes:
        anchors: their scores.
        one_shot: log-probs `(n, m)`, perhaps in a file; NaN where not scored.
        upper_bound: as in `Outcome`, `(n,)`.
        scores: golden scores `(n,)`; NaN where the row has none.
        by_set: golden scores on each of several anchor sets, by name.
        dropped: rows without a score for what the model gave, with the reason.
    """

    anchors: AnchorScores
    one_shot: npt.NDArray[np.float32]
    upper_bound: npt.NDArray[np.float64]
    scores: GoldenScores
    by_set: dict[str, GoldenScores]
    dropped: dict[int, str]


def collect(
    outcome: Outcome,
    anchor_set: AnchorSet,
    candidates: npt.NDArray[np.int64],
    num_rows: int,
    how: str,
    scratch: Scratch,
) -> Collected:
    """Put log-probs and scores in their places.

    Args:
        outcome: over the candidates.
        anchor_set: the anchors.
        candidates: pool indices, `(c,)`.
        num_rows: of the pool.
        how: `combine_anchor_sets`.
        scratch: makes the `(n, m)` array.
    """
    anchors = anchor_scores(anchor_set, outcome.zero_shot)
    one_shot = scratch.full((num_rows, len(anchors)), np.nan, np.float32)
    upper_bound = np.full(num_rows, np.nan)
    dropped: dict[int, str] = {}
    for start in range(0, len(candidates), BLOCK):
        block = slice(start, start + BLOCK)
        rows, bounds = candidates[block], outcome.upper_bound[block]
        log_probs = outcome.one_shot[outcome.row[block]]
        scorable = np.isfinite(outcome.zero_shot) & ~outcome.excluded[block]
        computed = scorable & ~(~np.isnan(bounds)[:, None] & np.isnan(log_probs))
        finite = (np.isfinite(log_probs) | ~computed).all(axis=1)
        dropped |= dict.fromkeys(rows[~finite].tolist(), "non_finite_log_prob")
        one_shot[rows[finite][:, None], anchor_set.usable] = np.where(computed, log_probs, np.nan)[finite]
        upper_bound[rows[finite]] = bounds[finite]
    scores, by_set = _golden_scores(anchors, one_shot, how)
    for i in candidates[np.isnan(scores.golden_score[candidates])].tolist():
        dropped.setdefault(i, "no_scored_anchor")  # with several sets: in one of them
    fields = dict(vars(scores))
    # A candidate that was scored on some anchors has no golden score, only a bound.
    for name in ("golden_score", "standard_error", "mean_gain"):
        fields[name] = np.where(np.isnan(upper_bound), fields[name], np.nan)
    return Collected(anchors, one_shot, upper_bound, GoldenScores(**fields), by_set, dropped)


def _golden_scores(
    anchors: AnchorScores, one_shot: npt.NDArray[np.float32], how: str
) -> tuple[GoldenScores, dict[str, GoldenScores]]:
    """Golden scores, and those on each anchor set where there are several."""
    names = list(dict.fromkeys(anchors.set_names))
    if len(names) == 1:
        return golden_scores(anchors.zero_shot, one_shot), {}
    by_set = {}
    for name in names:
        columns = np.flatnonzero([own == name for own in anchors.set_names])
        by_set[name] = golden_scores(anchors.zero_shot[columns], one_shot[:, columns])
    return combined_scores(list(by_set.values()), how), by_set
