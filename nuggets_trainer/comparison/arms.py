"""The rows that each arm of a comparison is tuned on: arrays in, pool indices out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nuggets_trainer.golden.coverage import cover
from nuggets_trainer.golden.ranking import rank_candidates
from nuggets_trainer.golden.scores import golden_scores

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class Evidence:
    """What the arms choose by, for the `n` rows of a pool.

    Attributes:
        zero_shot: zero-shot log-probs of the anchors, `(m,)`, nats per token.
        one_shot: log-probs of the anchors behind each row, `(n, m)`; all NaN for dropped rows, which no arm takes.
        lengths: numbers of completion tokens, `(n,)`.
        ifd: IFD of each row (`signals.row_signals`), `(n,)`; None if no arm needs it.
        coverage_weight: weight of coverage against the golden score in the arm `coverage`, in [0, 1].
        gain: standardised gains, `(n,)`; None standardises by all rows that have log-probs.
    """

    zero_shot: Floats
    one_shot: Floats
    lengths: npt.NDArray[np.int64]
    ifd: Floats | None
    coverage_weight: float
    gain: Floats | None = None

    @property
    def ranked(self) -> Indices:
        """Rows with a golden score, best first."""
        return rank_candidates(golden_scores(self.zero_shot, self.one_shot))

    @property
    def usable(self) -> Indices:
        """Rows with a golden score, in pool order."""
        return np.sort(self.ranked)

    def restricted_to(self, rows: Indices) -> Evidence:
        """Leave out all rows but these."""
        one_shot = np.full_like(self.one_shot, np.nan)
        one_shot[rows] = self.one_shot[rows]
        return dataclasses.replace(self, one_shot=one_shot)


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class ChosenArm:
    """Rows of one arm.

    Attributes:
        arm: key of `ARMS`.
        fraction: share of the pool; None for arms that do not depend on it.
        rows: pool indices of the rows of each seed.
        golden_share: share of the rows that are in the golden set of that fraction, mean over seeds.
    """

    arm: str
    fraction: float | None
    rows: list[Indices]
    golden_share: float | None


def golden_set_size(evidence: Evidence, fraction: float) -> int:
    """Return how many rows a share of the rows with a golden score is, at least one."""
    return max(1, round(fraction * len(evidence.ranked)))


def best_rows(evidence: Evidence, k: int, seed: int) -> Indices:
    """Take the best rows by golden score."""
    return evidence.ranked[:k]


def all_rows(evidence: Evidence, k: int, seed: int) -> Indices:
    """Take every row with a golden score."""
    return evidence.ranked


def random_rows(evidence: Evidence, k: int, seed: int) -> Indices:
    """Draw rows at random; each seed gives other rows."""
    return np.random.default_rng([seed, k]).choice(evidence.usable, size=k, replace=False)


def random_rows_of_golden_length(evidence: Evidence, k: int, seed: int) -> Indices:
    """Draw rows whose completions are as long as those of the golden set; each seed gives other rows.

    The rows of the golden set are visited in random order. Each is matched with a row that is not taken yet and is
    nearest to it in length; among equally near rows the choice is random. Most matches are of equal length. Rows of
    the golden set can be drawn as well, as in `random_rows`.
    """
    generator = np.random.default_rng([seed, k])
    pool = generator.permutation(evidence.usable)
    lengths = evidence.lengths[pool]
    free = np.ones(len(pool), dtype=np.bool_)
    chosen = []
    for wanted in evidence.lengths[generator.permutation(evidence.ranked[:k])]:
        distance = np.where(free, np.abs(lengths - wanted), np.inf)
        place = int(np.argmin(distance))
        free[place] = False
        chosen.append(pool[place])
    return np.array(chosen, dtype=np.int64)


def longest_rows(evidence: Evidence, k: int, seed: int) -> Indices:
    """Take the rows with the longest completions, in tokens."""
    return _highest(evidence.usable, evidence.lengths, k)


def highest_ifd_rows(evidence: Evidence, k: int, seed: int) -> Indices:
    """Take the rows with the highest IFD of at most 1 (Cherry LLM); fewer than k if there are no more."""
    assert evidence.ifd is not None
    rows = evidence.usable
    return _highest(rows[evidence.ifd[rows] <= 1], evidence.ifd, k)


def worst_rows(evidence: Evidence, k: int, seed: int) -> Indices:
    """Take the worst rows by golden score."""
    return evidence.ranked[::-1][:k]


def highest_gain_rows(evidence: Evidence, k: int, seed: int) -> Indices:
    """Take the rows with the highest mean gain, whatever their golden score."""
    gain = golden_scores(evidence.zero_shot, evidence.one_shot).mean_gain
    return _highest(evidence.usable, gain, k)


def highest_standardised_gain_rows(evidence: Evidence, k: int, seed: int) -> Indices:
    """Take the rows with the highest standardised gain: the golden set of `rank_by: gain`."""
    gain = evidence.gain
    if gain is None:
        gain = golden_scores(evidence.zero_shot, evidence.one_shot).gain
    return _highest(evidence.usable, gain, k)


def covering_rows(evidence: Evidence, k: int, seed: int) -> Indices:
    """Take rows that together help all anchors (see `nuggets_trainer.golden.coverage`)."""
    rows = evidence.ranked
    gains = evidence.one_shot[rows] - evidence.zero_shot
    score = golden_scores(evidence.zero_shot, evidence.one_shot).golden_score[rows]
    return rows[cover(gains[:, np.isfinite(evidence.zero_shot)], score, k, evidence.coverage_weight)]


def _highest(rows: Indices, values: npt.NDArray[np.number], k: int) -> Indices:
    """Take the k rows with the highest values; among equal values the earlier rows."""
    return rows[np.argsort(-values[rows], kind="stable")][:k]


ARMS: dict[str, Callable[[Evidence, int, int], Indices]] = {
    "golden": best_rows,
    "full": all_rows,
    "random": random_rows,
    "random_length": random_rows_of_golden_length,
    "longest": longest_rows,
    "ifd": highest_ifd_rows,
    "mean_gain": highest_gain_rows,
    "gain": highest_standardised_gain_rows,
    "coverage": covering_rows,
    "bottom": worst_rows,
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
    "gain": "highest standardised gain",
    "coverage": "coverage",
    "bottom": "lowest golden scores",
}
# What has to be computed before the rows of an arm are known. The length of a row costs nothing.
COSTS = {
    "golden": "scoring",
    "random_length": "scoring",
    "mean_gain": "scoring",
    "gain": "scoring",
    "coverage": "scoring",
    "bottom": "scoring",
    "ifd": "signals",
}
EVERY_FRACTION = ("base", "full")  # arms whose rows do not depend on the fraction
