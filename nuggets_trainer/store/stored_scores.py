"""The columns of scores.parquet as arrays."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nuggets_trainer.golden.arrays import Bools, Floats, Ints
from nuggets_trainer.golden.scores import VALUES, GoldenScores


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class StoredScores(GoldenScores):
    """The columns of scores.parquet as arrays `(n,)`, in pool order: NaN for null.

    Attributes:
        upper_bound: highest golden score that a row which a race stopped could have had; NaN for the other rows.
        rank: place in the ranking, 1 is best; 0 if the row has none.
        selected: whether the row is in the golden set.
        reason: position in `reasons` of the reason why the row was dropped; -1 if it was not dropped.
        reasons: all reasons that occur.
        by_set: golden scores on each of several anchor sets, by name; empty if there was one set.
        signals: signals of each row by itself, by name; empty if they were not computed.
        meets_require: whether the row meets the condition `require` of the run; None if there was none.
        pool_sha256: content hash of the rows that were scored; None if the file does not have it.
        pool_format: format in which the rows were read; None if the file does not have it.
    """

    upper_bound: Floats
    rank: Ints
    selected: Bools
    reason: npt.NDArray[np.int32]
    reasons: list[str]
    by_set: dict[str, Floats]
    signals: dict[str, Floats]
    meets_require: Bools | None
    pool_sha256: str | None
    pool_format: str | None

    def __len__(self) -> int:
        return len(self.rank)

    @property
    def num_candidates(self) -> int:
        """Number of rows that were not dropped."""
        return int((self.reason < 0).sum())

    @property
    def complete(self) -> Bools:
        """Rows that are scored on all their anchors."""
        return self.has_score & ~self.eliminated

    @property
    def has_score(self) -> Bools:
        """Rows with a golden score, predicted where a race for gains stopped the row."""
        return ~np.isnan(self.golden_score)

    @property
    def eliminated(self) -> Bools:
        """Rows that a race left before their last anchor."""
        return ~np.isnan(self.upper_bound)

    @property
    def best_known(self) -> Floats:
        """Golden score, or the upper bound of a row that has none because it was eliminated."""
        return np.where(self.has_score, self.golden_score, self.upper_bound)

    def dropped_as(self, reason: str) -> Bools:
        """Return whether each row was dropped for a reason, `(n,)`."""
        if reason not in self.reasons:
            return np.zeros(len(self), dtype=np.bool_)
        dropped: Bools = self.reason == self.reasons.index(reason)
        return dropped

    def without(self, rows: Bools, reason: str) -> StoredScores:
        """Return the scores as if these rows, an array `(n,)`, had been dropped for a reason."""
        changed: dict[str, Any] = {"reasons": [*self.reasons, reason]}
        changed["reason"] = np.where(rows & (self.reason < 0), len(self.reasons), self.reason)
        for name in ("upper_bound", *itertools.chain.from_iterable(VALUES)):
            changed[name] = np.where(rows, np.nan, getattr(self, name))
        return dataclasses.replace(self, **changed)
