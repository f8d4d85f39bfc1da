"""From scores to the golden set: one rule, deterministic ties. Knows no log-probs and no model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nuggets_trainer.golden import GoldenScores


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class GoldenSet:
    """The candidates that are kept, best first.

    Attributes:
        indices: pool indices in rank order, `(k,)` int64.
        golden_score, standard_error, mean_gain: of these candidates, `(k,)`, same order.
        rule: name and value of the selection rule, e.g. `("top_fraction", 0.1)`.
        num_rows: rows of the pool.
        num_candidates: rows from which the set was chosen; the others were dropped.
        pool_golden_score_mean: mean golden score of all candidates, to compare the set's with; None after a race,
            which does not score all of them on all anchors.
        cut: golden score of the last candidate kept.
        ties_at_cut: candidates of the pool whose golden score equals `cut`.
        ties_kept: how many of these are in the set; the others lost on mean gain or pool index.
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

    def __len__(self) -> int:
        return len(self.indices)

    def describe(self) -> str:
        """Return the selection in one line."""
        name, value = self.rule
        amount = f"{value:,}" if name == "top_k" else f"{value:g}"
        error = self.standard_error[-1]
        return (
            f"golden set: {len(self):,} of {self.num_candidates:,} candidates ({name}={amount}), golden score "
            f"{self.golden_score[0]:.3f} to {self.cut:.3f} (standard error at the cut {error:.3f}); "
            f"{self.ties_at_cut:,} candidates tie at the cut, {self.ties_kept:,} kept (by mean gain, then index)"
        )

    def summary(self) -> dict[str, float]:
        """Return the numbers worth logging, by name."""
        pool = {} if self.pool_golden_score_mean is None else {"pool_golden_score_mean": self.pool_golden_score_mean}
        return {
            "golden_set_size": float(len(self)),
            "num_candidates": float(self.num_candidates),
            "num_dropped": float(self.num_rows - self.num_candidates),
            **pool,
            "golden_score_mean": float(self.golden_score.mean()),
            "golden_score_cut": self.cut,
            "mean_gain": float(self.mean_gain.mean()),
            "ties_at_cut": float(self.ties_at_cut),
            "ties_kept": float(self.ties_kept),
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


def select_golden_set(scores: GoldenScores, rule: tuple[str, float], num_candidates: int | None = None) -> GoldenSet:
    """Keep the best candidates by one rule.

    Args:
        scores: of the whole pool, `(n,)`; NaN for rows that were dropped, or eliminated by a race.
        rule: `("top_fraction", f)` keeps `max(1, round(f * candidates))`,
            `("top_k", k)` keeps exactly k, `("threshold", t)` keeps scores strictly above t.
        num_candidates: rows that have a score or were eliminated; None if all of them have a score.

    Returns:
        The `GoldenSet`, best first.

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
    num_candidates = len(order) if num_candidates is None else num_candidates
    kept = order[: _num_kept(scores.golden_score[order], len(scores.golden_score), num_candidates, rule)]
    cut = float(scores.golden_score[kept[-1]])
    return GoldenSet(
        indices=kept,
        golden_score=scores.golden_score[kept],
        standard_error=scores.standard_error[kept],
        mean_gain=scores.mean_gain[kept],
        rule=rule,
        num_rows=len(scores.golden_score),
        num_candidates=num_candidates,
        pool_golden_score_mean=float(scores.golden_score[order].mean()) if num_candidates == len(order) else None,
        cut=cut,
        ties_at_cut=int((scores.golden_score == cut).sum()),
        ties_kept=int((scores.golden_score[kept] == cut).sum()),
    )


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
