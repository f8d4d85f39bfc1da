"""What the arms of a comparison choose rows by: scores and columns, one value for each row of the pool."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nuggets_trainer.golden.ranking import rank_candidates
from nuggets_trainer.golden.scores import GoldenScores

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class Evidence:
    """What the arms choose by, for the `n` rows of a pool.

    Attributes:
        scores: golden scores and gains, arrays `(n,)`; NaN for rows without a score.
        usable: pool indices of the rows that an arm may take, ascending.
        columns: other values of each row, `(n,)`, by name: the signals under their names in scores.parquet, such as
            `loss`, `ifd`, `similarity` and `num_tokens`, NaN where a row has none; and the number of each row's
            `prompt`, as `golden.limits.Limits` takes it.
        zero_shot: zero-shot log-probs of the anchors, `(m,)`, nats per token.
        one_shot: log-probs of the anchors behind each row, `(n, m)`; NaN where a pair was not scored.
        has_every_pair: whether every pair of a usable row was scored. A race leaves pairs out.
        coverage_weight: weight of coverage against the golden score in the arm `coverage`, in [0, 1].
        meets_require: whether each row meets the condition `require`, `(n,)`; None without one.
        max_rows_per_prompt: number of rows of one prompt in the arm `golden_by_prompt`.
    """

    scores: GoldenScores
    usable: Indices
    columns: Mapping[str, Floats]
    zero_shot: Floats
    one_shot: Floats
    has_every_pair: bool = True
    coverage_weight: float = 0.5
    meets_require: npt.NDArray[np.bool_] | None = None
    max_rows_per_prompt: int = 1

    @property
    def ranked(self) -> Indices:
        """Usable rows with a golden score, best first."""
        return self.ranked_by("golden_score")

    def ranked_by(self, value: str) -> Indices:
        """Return the usable rows in the order of `rank_by`, best first."""
        rows = rank_candidates(self.scores, value)
        return rows[np.isin(rows, self.usable)]

    def highest(self, values: Floats, k: int) -> Indices:
        """Return the k usable rows with the highest values; among equal values the earlier rows.

        Args:
            values: values of all rows, `(n,)`; a row with NaN is left out.
            k: number of rows; fewer are returned if no more have a value.
        """
        rows = self.usable[~np.isnan(values[self.usable])]
        return rows[np.argsort(-values[rows], kind="stable")][:k]

    def num_chosen(self, fraction: float) -> int:
        """Return how many rows a share of the usable rows is, at least one."""
        return max(1, round(fraction * len(self.usable)))

    def restricted_to(self, rows: npt.NDArray[np.integer]) -> Evidence:
        """Leave out all rows but these."""
        return dataclasses.replace(self, usable=np.intersect1d(self.usable, rows))

    def filtered(self) -> Evidence:
        """Leave out the rows that do not meet `require`."""
        assert self.meets_require is not None, "no condition was given"
        return self.restricted_to(np.flatnonzero(self.meets_require))
