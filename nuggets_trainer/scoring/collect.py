"""What a schedule found -> golden scores of the whole pool, and the reasons of rows that have none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nuggets_trainer.golden.gains import AnchorScale, anchor_scale, gain_pilot
from nuggets_trainer.golden.scores import AnchorScores, GoldenScores, combined_scores, golden_scores
from nuggets_trainer.prompts.shared_prefix import AnchorSet
from nuggets_trainer.scoring.blocks import blocks
from nuggets_trainer.store.scratch import Scratch


@dataclass(frozen=True, eq=False)
class Outcome:
    """Result of a schedule over the candidates, in pool order; only the main process has it.

    Attributes:
        zero_shot: log-probs of the usable anchors, `(m,)`.
        one_shot: log-probs of the different candidates, `(r, m)`, perhaps in a file; NaN where not scored.
        row: row in `one_shot` of each candidate, `(c,)`: equal candidates share one.
        excluded: whether each pair is left out, because a row would be scored with itself, `(c, m)`.
        upper_bound: golden score of each candidate that was stopped, if it won all that is left, `(c,)`; NaN for the
            others.
        predicted: predicted scores of these candidates, by the names of `GoldenScores`, each `(c,)`; empty if they
            have only a bound.
        pilot: places of the candidates that a race scored on all anchors whatever they are worth, `(p,)`; empty after
            an exact run.
    """

    zero_shot: npt.NDArray[np.float32]
    one_shot: npt.NDArray[np.float32]
    row: npt.NDArray[np.int64]
    excluded: npt.NDArray[np.bool_]
    upper_bound: npt.NDArray[np.float64]
    predicted: dict[str, npt.NDArray[np.float64]]
    pilot: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pilot:
    """Candidates that are scored on all anchors before the others, chosen at random; only the main process has them.

    Attributes:
        zero_shot: log-probs of the usable anchors, `(m,)`.
        one_shot: log-probs of the different candidates of the pilot, `(p, m)`; NaN for pairs that are left out.
        candidates: numbers of these candidates, `(p,)`.
    """

    zero_shot: npt.NDArray[np.float32]
    one_shot: npt.NDArray[np.float32]
    candidates: list[int]


# What all processes do once the pilot is scored: the main process gets it, the others None.
AfterPilot = Callable[[Pilot | None], None]


@dataclass(frozen=True, eq=False)
class Collected:
    """An outcome in the places of the n pool rows and all m anchors.

    Attributes:
        anchors: scores of the anchors, `(m,)`.
        one_shot: log-probs, `(n, m)`, perhaps in a file; NaN where not scored.
        upper_bound: golden score of each row that was stopped, if it won all that is left, `(n,)`; NaN for the others.
        scores: golden scores, `(n,)`; NaN where the row has none, predicted where a race for gains stopped it.
        by_set: golden scores on each of several anchor sets, by name.
        dropped: reason of each candidate that has no score because of what the model gave, by pool index.
        pilot: pool indices of the pilot's rows that have a golden score; empty if no row was eliminated.
    """

    anchors: AnchorScores
    one_shot: npt.NDArray[np.float32]
    upper_bound: npt.NDArray[np.float64]
    scores: GoldenScores
    by_set: dict[str, GoldenScores]
    dropped: dict[int, str]
    pilot: list[int]


def collect(
    outcome: Outcome,
    anchor_set: AnchorSet,
    candidates: npt.NDArray[np.int64],
    keys: list[str],
    num_rows: int,
    combine_anchor_sets: str,
    scratch: Scratch,
) -> Collected:
    """Put log-probs and scores in their places.

    Args:
        outcome: result of the schedule.
        anchor_set: the anchors.
        candidates: pool indices of the candidates, `(c,)`.
        keys: content hashes of the candidates, `(c,)`, by which the pilot of the gains is chosen.
        num_rows: number of rows of the pool.
        combine_anchor_sets: `mean` or `worst`.
        scratch: makes the `(n, m)` array.
    """
    anchors = anchor_scores(anchor_set, outcome.zero_shot)
    one_shot = scratch.full((num_rows, len(anchors)), np.nan, np.float32)
    upper_bound = np.full(num_rows, np.nan)
    dropped: dict[int, str] = {}
    for _, block in blocks(candidates.tolist()):
        rows, bounds = candidates[block], outcome.upper_bound[block]
        log_probs = outcome.one_shot[outcome.row[block]]
        scorable = np.isfinite(outcome.zero_shot) & ~outcome.excluded[block]
        # What a race left out of an eliminated candidate was not computed; elsewhere a NaN is what the model gave.
        left_out = ~np.isnan(bounds)[:, None] & np.isnan(log_probs)
        computed = scorable & ~left_out
        finite = (np.isfinite(log_probs) | ~computed).all(axis=1)
        dropped |= dict.fromkeys(rows[~finite].tolist(), "non_finite_log_prob")
        one_shot[rows[finite][:, None], anchor_set.usable] = np.where(computed, log_probs, np.nan)[finite]
        upper_bound[rows[finite]] = bounds[finite]
    pilot_of_gains = candidates[gain_pilot(keys)]
    # The gains of rows that a race stopped are not a random part, so a pilot that lacks some gives no scale.
    has_scale = bool(np.isnan(upper_bound[pilot_of_gains]).all())
    by_set, scales = _scores_by_set(anchors, one_shot, pilot_of_gains)
    if len(by_set) == 1:
        scores, by_set = next(iter(by_set.values())), {}
    else:
        scores = combined_scores(list(by_set.values()), combine_anchor_sets)
    for i in candidates[np.isnan(scores.golden_score[candidates])].tolist():
        dropped.setdefault(i, "no_scored_anchor")  # with several sets: in one of them
    # A candidate that was scored on some anchors has no golden score and no gain, only a bound, or predictions.
    fields = dict(vars(scores))
    for name in sorted(set(fields) - {"num_anchors"}):
        predicted = np.full(num_rows, np.nan)
        if name in outcome.predicted:
            predicted[candidates] = outcome.predicted[name]
        fields[name] = np.where(np.isnan(upper_bound), fields[name], predicted)
    if has_scale:
        anchors = _with_scales(anchors, scales)
    else:
        fields |= {"gain": np.full(num_rows, np.nan), "gain_error": np.full(num_rows, np.nan)}
    pilot: list[int] = []
    if not np.isnan(upper_bound).all():  # else every row with a golden score is as random as the pilot
        pilot = [i for i in candidates[outcome.pilot].tolist() if i not in dropped and np.isnan(upper_bound[i])]
    return Collected(anchors, one_shot, upper_bound, GoldenScores(**fields), by_set, dropped, pilot)


def _columns_of(name: str, anchors: AnchorScores) -> npt.NDArray[np.int64]:
    """Return the indices of the anchors of one set."""
    return np.flatnonzero([own == name for own in anchors.set_names])


def _scores_by_set(
    anchors: AnchorScores, one_shot: npt.NDArray[np.float32], pilot: npt.NDArray[np.int64]
) -> tuple[dict[str, GoldenScores], dict[str, AnchorScale]]:
    """Score all rows on each anchor set, by its own scale of the gains: each set has its own common deviation."""
    by_set, scales = {}, {}
    for name in dict.fromkeys(anchors.set_names):
        columns = _columns_of(name, anchors)
        zero_shot = anchors.zero_shot[columns]
        pairs = one_shot if len(columns) == len(anchors) else one_shot[:, columns]
        scales[name] = anchor_scale(zero_shot, pairs[pilot])
        by_set[name] = golden_scores(zero_shot, pairs, scales[name])
    return by_set, scales


def _with_scales(anchors: AnchorScores, scales: dict[str, AnchorScale]) -> AnchorScores:
    """Write the scales of all sets down with the anchors; an anchor that was not scored has none."""
    mean, deviation = np.full(len(anchors), np.nan), np.full(len(anchors), np.nan)
    for name, scale in scales.items():
        columns = _columns_of(name, anchors)
        mean[columns], deviation[columns] = scale.mean, scale.deviation
    unscored = np.isnan(anchors.zero_shot)
    mean[unscored], deviation[unscored] = np.nan, np.nan
    return dataclasses.replace(anchors, gain_mean=mean, gain_deviation=deviation)


def anchor_scores(anchor_set: AnchorSet, zero_shot: npt.NDArray[np.float32]) -> AnchorScores:
    """Put the zero-shot log-probs of the usable anchors in their places among all anchors, yet without gains.

    Args:
        anchor_set: the anchors.
        zero_shot: log-probs of the usable anchors, `(len(anchor_set.usable),)`.
    """
    dropped = list(anchor_set.dropped)
    values = np.full(len(dropped), np.nan, dtype=np.float32)
    num_tokens = np.zeros(len(dropped), dtype=np.int64)
    for j, value, segment in zip(anchor_set.usable, zero_shot, anchor_set.segments, strict=True):
        if np.isfinite(value):
            values[j], num_tokens[j] = value, segment.num_completion_tokens
        else:
            dropped[j] = "non_finite_log_prob"
    return AnchorScores(
        pool_index=anchor_set.pool_index,
        zero_shot=values,
        num_tokens=num_tokens,
        dropped=dropped,
        num_cut=anchor_set.num_cut,
        set_names=anchor_set.set_names,
        gain_mean=np.full(len(dropped), np.nan),
        gain_deviation=np.full(len(dropped), np.nan),
    )
