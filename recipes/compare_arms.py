"""Which rows each arm of a comparison is tuned on. Pure numpy; knows no model and no files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nuggets_trainer.golden.coverage import cover
from nuggets_trainer.golden.scores import golden_scores
from nuggets_trainer.golden.selection import rank_candidates

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class Evidence:
    """What is known of the `n` rows of a pool.

    Attributes:
        zero_shot: log-probs of the anchors, `(m,)`.
        one_shot: the same behind each row, `(n, m)`; all NaN for rows that were dropped, which no arm takes.
        lengths: tokens of the completions, `(n,)`.
        ifd: loss of the completion with its prompt / without, `(n,)`; None where no arm needs it.
        coverage_weight: of coverage against golden score, in [0, 1].
    """

    zero_shot: Floats
    one_shot: Floats
    lengths: npt.NDArray[np.int64]
    ifd: Floats | None
    coverage_weight: float

    @property
    def ranked(self) -> Indices:
        """Rows with a golden score, best first."""
        return rank_candidates(golden_scores(self.zero_shot, self.one_shot))


def golden(evidence: Evidence, k: int, seed: int) -> Indices:
    """Take the best by golden score."""
    return evidence.ranked[:k]


def full(evidence: Evidence, k: int, seed: int) -> Indices:
    """Take every row with a golden score."""
    return evidence.ranked


def random(evidence: Evidence, k: int, seed: int) -> Indices:
    """Draw rows, other ones in each seed."""
    return np.random.default_rng([seed, k]).choice(np.sort(evidence.ranked), size=k, replace=False)


def random_length(evidence: Evidence, k: int, seed: int) -> Indices:
    """Draw rows so that their completions are as long as those of the golden set, other ones in each seed.

    Each row of the golden set, in random order, is matched with a random one of the rows that are nearest to it in
    length and not taken yet (of equal length, mostly). Rows of the golden set may be drawn as well, as in `random`.
    """
    generator = np.random.default_rng([seed, k])
    pool = generator.permutation(np.sort(evidence.ranked))
    lengths, free = evidence.lengths[pool], np.ones(len(pool), dtype=np.bool_)
    chosen = []
    for wanted in evidence.lengths[generator.permutation(evidence.ranked[:k])]:
        place = int(np.argmin(np.where(free, np.abs(lengths - wanted), np.inf)))
        free[place] = False
        chosen.append(pool[place])
    return np.array(chosen, dtype=np.int64)


def longest(evidence: Evidence, k: int, seed: int) -> Indices:
    """Take the longest completions, in tokens."""
    rows = np.sort(evidence.ranked)
    return rows[np.argsort(-evidence.lengths[rows], kind="stable")][:k]


def ifd(evidence: Evidence, k: int, seed: int) -> Indices:
    """Take the highest IFD of at most 1 (Cherry LLM); fewer than k where there are no more."""
    assert evidence.ifd is not None
    rows = np.sort(evidence.ranked)
    rows = rows[evidence.ifd[rows] <= 1]
    return rows[np.argsort(-evidence.ifd[rows], kind="stable")][:k]


def bottom(evidence: Evidence, k: int, seed: int) -> Indices:
    """Take the worst by golden score."""
    return evidence.ranked[::-1][:k]


def mean_gain(evidence: Evidence, k: int, seed: int) -> Indices:
    """Take the best by mean gain, whatever the golden score."""
    rows = np.sort(evidence.ranked)
    gain = golden_scores(evidence.zero_shot, evidence.one_shot).mean_gain[rows]
    return rows[np.argsort(-gain, kind="stable")][:k]


def coverage(evidence: Evidence, k: int, seed: int) -> Indices:
    """Take rows that help all anchors between them (`nuggets_trainer.golden.coverage`)."""
    rows = evidence.ranked
    gains = evidence.one_shot[rows] - evidence.zero_shot
    score = golden_scores(evidence.zero_shot, evidence.one_shot).golden_score[rows]
    return rows[cover(gains[:, np.isfinite(evidence.zero_shot)], score, k, evidence.coverage_weight)]


ARMS: dict[str, Callable[[Evidence, int, int], Indices]] = {
    "golden": golden,
    "full": full,
    "random": random,
    "random_length": random_length,
    "longest": longest,
    "ifd": ifd,
    "mean_gain": mean_gain,
    "coverage": coverage,
    "bottom": bottom,
}
LABELS = {
    "base": "nothing (base model)",
    "golden": "golden set",
    "full": "full pool",
    "random": "random rows",
    "random_length": "random, as long as golden",
    "longest": "longest completions",
    "ifd": "highest IFD",
    "mean_gain": "highest mean gain",
    "coverage": "coverage",
    "bottom": "lowest golden scores",
}
# What must be computed before an arm's rows are known; length alone is read off the rows.
COSTS = {
    "golden": "scoring",
    "random_length": "scoring",
    "mean_gain": "scoring",
    "coverage": "scoring",
    "bottom": "scoring",
    "ifd": "ifd",
}
EVERY_FRACTION = ("base", "full")  # arms that do not depend on it
