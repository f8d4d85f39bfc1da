"""From scores to the golden set: one rule, deterministic ties, and what may not be in it twice. Knows no model."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nuggets_trainer.golden.coverage import cover, spread
from nuggets_trainer.golden.limits import Limits, quotas
from nuggets_trainer.golden.scores import FloatArray, GoldenScores


@dataclass(frozen=True, eq=False)
class Diversity:
    """What a golden set is chosen by besides the golden score; arrays have one entry per pool row.

    Attributes:
        gains: one-shot minus zero-shot log-prob, `(n, m)`, nats per token; NaN where not scored; None without weight.
        coverage_weight: of covering all anchors (`coverage.py`), in [0, 1]; 0 is a ranking.
        groups: of each row the group whose quota it counts to; None without quotas.
        group_quota: `proportional` or `equal`, see `limits.quotas`.
        embeddings: `(n, d)`; None where near-duplicates may stay.
        max_similarity: cosine above which a row is a near-duplicate.
    """

    gains: FloatArray | None = None
    coverage_weight: float = 0.0
    groups: Sequence[str] | None = None
    group_quota: str = "proportional"
    embeddings: npt.NDArray[np.float32] | None = None
    max_similarity: float = 1.0


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class GoldenSet:
    """The candidates that are kept, best first.

    Attributes:
        indices: pool indices in rank order, `(k,)` int64.
        golden_score: of these candidates, `(k,)`, same order.
        standard_error: of each golden score.
        mean_gain: likewise, nats per token.
        rule: name and value of the selection rule, e.g. `("top_fraction", 0.1)`.
        num_rows: rows of the pool.
        num_candidates: rows from which the set was chosen; the others were dropped.
        pool_golden_score_mean: mean golden score of all candidates, to compare the set's with; None after a race,
            which does not score all of them on all anchors.
        cut: golden score of the last candidate kept.
        ties_at_cut: candidates of the pool whose golden score equals `cut`.
        ties_kept: how many of these are in the set; the others lost on mean gain or pool index.
        passed_over: candidates that were left out for a `full_group` or as a `near_duplicate`, by reason.
        spread: with coverage, how the gains are spread over the anchors (`coverage.Spread`), and how they would be in
            the ranking's set (`ranking_coverage`, ...).
        num_unlike_ranking: rows of the ranking's set that are not in this one; None where this is the ranking's.
        groups: with quotas, of each group its `candidates` and how many of them are `kept`, largest first.
    """

    indices: npt.NDArray[np.int64]
    golden_score: npt.NDArray[np.float64]
    standard_error: npt.NDArray[np.float64]
    mean_gain: npt.NDArray[np.float64]
    rule: tuple[str, float]
    num_rows: int
    num_candidates: int
    pool_golden_score_mean: float | None
    cut: float
    ties_at_cut: int
    ties_kept: int
    passed_over: dict[str, int] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)
    num_unlike_ranking: int | None = None
    groups: dict[str, dict[str, int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.indices)

    def describe(self) -> str:
        """Return the selection in one line."""
        name, value = self.rule
        amount = f"{value:,}" if name == "top_k" else f"{value:g}"
        error = self.standard_error[-1]
        how = "by coverage" if self.spread else "by mean gain, then index"
        text = (
            f"golden set: {len(self):,} of {self.num_candidates:,} candidates ({name}={amount}), golden score "
            f"{self.golden_score[0]:.3f} to {self.cut:.3f} (standard error at the cut {error:.3f}); "
            f"{self.ties_at_cut:,} candidates tie at the cut, {self.ties_kept:,} kept ({how})"
        )
        for reason, count in self.passed_over.items():
            text += f"; passed over {count:,} ({reason})"
        if self.num_unlike_ranking == 0:
            text += f"; {'coverage' if self.spread else 'this'} changed nothing: they are the rows of the ranking"
        elif self.num_unlike_ranking is not None:
            text += f"; {self.num_unlike_ranking:,} rows of the plain ranking are not in it"
        if self.spread:
            names = [name for name in self.spread if not name.startswith("ranking_")]
            pairs = [(name.replace("_", " "), self.spread[name], self.spread[f"ranking_{name}"]) for name in names]
            text += "; " + ", ".join(f"{name} {own:.3f} (ranking {other:.3f})" for name, own, other in pairs)
        return text

    def summary(self) -> dict[str, float]:
        """Return the numbers worth logging, by name."""
        pool = {} if self.pool_golden_score_mean is None else {"pool_golden_score_mean": self.pool_golden_score_mean}
        return {
            "golden_set_size": len(self),
            "num_candidates": self.num_candidates,
            "num_dropped": self.num_rows - self.num_candidates,
            **pool,
            "golden_score_mean": float(self.golden_score.mean()),
            "golden_score_cut": self.cut,
            "mean_gain": float(self.mean_gain.mean()),
            "ties_at_cut": self.ties_at_cut,
            "ties_kept": self.ties_kept,
            **{f"passed_over_{reason}": count for reason, count in self.passed_over.items()},
            **self.spread,
            **({} if self.num_unlike_ranking is None else {"num_unlike_ranking": self.num_unlike_ranking}),
        }


def rank_candidates(scores: GoldenScores) -> npt.NDArray[np.int64]:
    """Pool indices of all candidates with a score, best first.

    Order: golden score down, mean gain down, pool index up; so it is total, and the same
    everywhere.

    Example:
        >>> import numpy as np
        >>> one = np.ones(4)
        >>> rank_candidates(GoldenScores(np.array([.5, .9, np.nan, .9]), one, np.array([0, .1, 0, .2]), one)).tolist()
        [3, 1, 0]
    """
    order = np.lexsort((np.arange(len(scores.golden_score)), -scores.mean_gain, -scores.golden_score))
    return order[~np.isnan(scores.golden_score[order])].astype(np.int64)


def select_golden_set(
    scores: GoldenScores,
    rule: tuple[str, float],
    num_candidates: int | None = None,
    diversity: Diversity | None = None,
) -> GoldenSet:
    """Keep the best candidates by one rule.

    Args:
        scores: of the whole pool, `(n,)`; NaN for rows that were dropped, or eliminated by a race.
        rule: `("top_fraction", f)` keeps `max(1, round(f * candidates))`,
            `("top_k", k)` keeps exactly k, `("threshold", t)` keeps scores strictly above t.
        num_candidates: rows that have a score or were eliminated; None if all of them have a score.
        diversity: what else the choice goes by; None for a ranking.

    Returns:
        The `GoldenSet`, best first; smaller than the rule says where too many are near-duplicates.

    Raises:
        ValueError: if k is larger than the number of candidates with a score, or if no candidate
            is above the threshold.

    Example:
        >>> import numpy as np
        >>> p = np.array([.2, .8, .8, .4])
        >>> golden = select_golden_set(GoldenScores(p, p, p, p), ("top_k", 1))
        >>> golden.indices.tolist(), golden.cut, golden.ties_at_cut, golden.ties_kept
        ([1], 0.8, 2, 1)
    """
    order = rank_candidates(scores)
    num_scored = len(order)
    num_candidates = num_scored if num_candidates is None else num_candidates
    pool_mean = float(scores.golden_score[order].mean()) if num_candidates == num_scored and num_scored else None
    k = _num_kept(scores.golden_score[order], len(scores.golden_score), num_candidates, rule)
    if rule[0] == "threshold":
        order = order[:k]  # what a near-duplicate leaves open is not filled from below the threshold
    chosen = _Choice(np.arange(k)) if diversity is None else _choose_diverse(scores, order, k, diversity)
    kept = order[chosen.places]
    cut = float(scores.golden_score[kept[-1]])
    return GoldenSet(
        indices=kept,
        golden_score=scores.golden_score[kept],
        standard_error=scores.standard_error[kept],
        mean_gain=scores.mean_gain[kept],
        rule=rule,
        num_rows=len(scores.golden_score),
        num_candidates=num_candidates,
        pool_golden_score_mean=pool_mean,
        cut=cut,
        ties_at_cut=int((scores.golden_score == cut).sum()),
        ties_kept=int((scores.golden_score[kept] == cut).sum()),
        passed_over=chosen.passed_over,
        spread=chosen.spread,
        num_unlike_ranking=None if diversity is None else k - int((chosen.places < k).sum()),
        groups=chosen.groups,
    )


@dataclass(frozen=True, eq=False)
class _Choice:
    """Places in the ranking that are kept, in its order, and the fields of `GoldenSet` that say how."""

    places: npt.NDArray[np.int64]
    passed_over: dict[str, int] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)
    groups: dict[str, dict[str, int]] = field(default_factory=dict)


def _choose_diverse(scores: GoldenScores, order: npt.NDArray[np.int64], k: int, diversity: Diversity) -> _Choice:
    groups = None if diversity.groups is None else [diversity.groups[i] for i in order]
    limits = Limits(
        groups,
        None if groups is None else quotas(groups, k, diversity.group_quota),
        None if diversity.embeddings is None else diversity.embeddings[order],
        diversity.max_similarity,
    )
    if not diversity.coverage_weight:
        admitted = filter(limits.admit, range(len(order)))
        places = np.fromiter(itertools.islice(admitted, k), dtype=np.int64)
        return _Choice(places, dict(limits.passed_over), groups=_group_counts(groups, places))
    assert diversity.gains is not None
    gains = diversity.gains[order]
    places = np.sort(cover(gains, scores.golden_score[order], k, diversity.coverage_weight, limits.admit))
    own, ranking = vars(spread(gains, places)), vars(spread(gains, np.arange(k)))
    spreads = {**own, **{f"ranking_{name}": value for name, value in ranking.items()}}
    return _Choice(places, dict(limits.passed_over), spreads, _group_counts(groups, places))


def _group_counts(groups: Sequence[str] | None, places: npt.NDArray[np.int64]) -> dict[str, dict[str, int]]:
    kept = Counter() if groups is None else Counter(groups[place] for place in places)
    return {name: {"candidates": n, "kept": kept[name]} for name, n in Counter(groups).most_common()}


def _num_kept(
    ranked_scores: npt.NDArray[np.float64], num_rows: int, num_candidates: int, rule: tuple[str, float]
) -> int:
    name, value = rule
    if len(ranked_scores) == 0:
        raise ValueError(f"No candidate has a score: all {num_rows} rows of the pool were dropped.")
    if name == "top_k":
        if value > len(ranked_scores):
            raise ValueError(
                f"`top_k={int(value)}` is larger than the usable pool: {len(ranked_scores)} of {num_rows} rows have a "
                "score. Lower `top_k` or use `top_fraction`."
            )
        return int(value)
    if name == "top_fraction":
        return max(1, round(value * num_candidates))
    assert name == "threshold", name
    kept = int((ranked_scores > value).sum())
    if kept == 0:
        raise ValueError(
            f"`threshold={value}` keeps no candidate: the best golden score is {ranked_scores[0]:.4f}. Lower it, or "
            "use `top_fraction`."
        )
    return kept
