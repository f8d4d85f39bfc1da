"""What the results of a race for gains say so far: predicted values, and how much of the golden set they find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nuggets_trainer.golden.arrays import Bools, Floats, Ints, LogProbs, row_blocks
from nuggets_trainer.golden.scores import standard_error
from nuggets_trainer.racing.gain_covariance import FEWEST_ROWS
from nuggets_trainer.racing.gain_model import GainModel
from nuggets_trainer.racing.recall import Recall, expected_recall, indifference_of
from nuggets_trainer.racing.scored_pairs import ScoredPairs


class GainStandings(ScoredPairs):
    """State of a race for gains: the log-probs so far, and what they let one expect.

    Args:
        rule: name and value of the selection rule.
        zero_shot: log-probs of the m anchors, `(m,)`, as in `ScoredPairs`.
        excluded: pairs that are never scored, `(n, m)`.
        copies: number of pool rows that each candidate stands for, `(n,)`; None is 1 for each.
        full: function that makes the `(n, m)` arrays.
        rank_by: `gain` or `mean_gain`.
        total_tokens: tokens of each candidate, `(n,)`, prompt and completion; None for a rule other than `max_tokens`.

    Attributes:
        rank_by: value that rows are ranked by.
        model: what the pilot has taught; None until it is scored, or if it is too small to teach anything.
        value: predicted value of each candidate, `(n,)`; NaN without a model, and for dropped candidates.
        error: standard error of each prediction, `(n,)`; 0 if the candidate is complete.
        recall: what is expected of the golden set by these values; None without a model. Its arrays have the
            candidates that are not dropped.
        indifference: difference of values that does not count, see `indifference_of`; 0 without a model.
    """

    def __init__(
        self,
        rule: tuple[str, float],
        zero_shot: LogProbs,
        excluded: Bools,
        copies: Ints | None = None,
        full: Callable[..., Any] = np.full,
        rank_by: str = "gain",
        total_tokens: Ints | None = None,
    ) -> None:
        super().__init__(rule, zero_shot, excluded, copies, full)
        assert (rule[0] == "max_tokens") == (total_tokens is not None), rule
        self._total_tokens = total_tokens
        self.rank_by = rank_by
        self.model: GainModel | None = None
        self.value, self.error = np.full(len(self), np.nan), np.full(len(self), np.nan)
        self.recall: Recall | None = None
        self.indifference = 0.0
        self._changed = np.zeros(len(self), dtype=np.bool_)

    @property
    def num_kept(self) -> int:
        """Rows that the rule keeps; of a token budget, those that fit into it in the order of the predicted values."""
        name, budget = self.rule
        if name != "max_tokens":
            return super().num_kept
        assert self._total_tokens is not None
        rows = np.flatnonzero(~self.dropped)
        tokens, copies = self._total_tokens[rows], self.copies[rows]
        if self.model is None:  # nothing is predicted: rows of average length
            return max(1, int(budget * copies.sum() / max(1, copies @ tokens)))
        order = np.argsort(-self.value[rows], kind="stable")
        used = np.cumsum(np.repeat(tokens[order], copies[order]))
        return max(1, int((used <= budget).sum()))

    @property
    def cut(self) -> float | None:
        """Value that the golden set is expected to end at; None until it is known."""
        return None if self.recall is None else self.recall.cut

    @property
    def best(self) -> float | None:
        """Best value of a complete candidate; None until one is known."""
        values = self.value[self.complete & ~np.isnan(self.value)]
        return float(values.max()) if len(values) else None

    @property
    def num_eliminated(self) -> int:
        """Rows of the pool that are scored on some anchors and are expected to be below the cut; equal rows count."""
        if self.cut is None:
            return 0
        below = (self.num_pending > 0) & (self.num_scored > 0) & ~self.dropped & (self.value < self.cut)
        return int(self.copies[below].sum())

    def learn(self, pilot: Ints, anchor_tokens: Ints) -> None:
        """Learn from the pilot, once it is scored.

        Args:
            pilot: candidates of the pilot, `(p,)`.
            anchor_tokens: forward tokens of each anchor, `(m,)`.
        """
        rows = pilot[~self.dropped[pilot]]
        if len(rows) < FEWEST_ROWS:
            return
        self.adopt(GainModel(self.zero_shot, self.one_shot[rows], anchor_tokens, self.rank_by))

    def adopt(self, model: GainModel) -> None:
        """Predict by this model from now on."""
        num_kept = self.num_kept
        self.model = model
        self.value[:], self.error[:] = model.prior()
        share_kept = num_kept / max(1, self.num_candidates)
        self.indifference = indifference_of(model.pilot_value, model.pilot_error, self.rule, share_kept)
        self._changed = self.num_scored > 0

    def update(self, rows: Ints, anchors: Ints, log_probs: LogProbs) -> None:
        """Take in the log-probs of some pairs, given by candidate and anchor, each array `(number of pairs,)`."""
        super().update(rows, anchors, log_probs)
        self._changed[rows] = True

    def look(self) -> None:
        """Predict the values of the rows that have got results, and what to expect of the golden set."""
        assert self.model is not None
        changed = np.flatnonzero(self._changed & ~self.dropped)
        for block in row_blocks(len(changed)):
            rows = changed[block]
            one_shot = self.one_shot[rows]
            self.value[rows], self.error[rows] = self.model.predict(one_shot, ~np.isnan(one_shot) | self.pending[rows])
        self.value[self.dropped] = self.error[self.dropped] = np.nan
        self._changed[:] = False
        racing = ~self.dropped
        self.recall = expected_recall(
            self.value[racing],
            self.error[racing],
            self.copies[racing],
            self.rule,
            self.num_kept,
            self.indifference,
            self.model.skewness,
        )

    @property
    def upper_bound(self) -> Floats:
        """Golden score that each row has if it wins all anchors left, `(n,)`; NaN for complete and dropped rows."""
        wins = np.zeros(len(self), dtype=np.int64)
        for block in row_blocks(len(self)):
            wins[block] = (self.one_shot[block] > self.zero_shot).sum(axis=1)
        bound: Floats = (wins + self.num_pending) / np.maximum(self.num_anchors, 1)
        bound[(self.num_pending == 0) | self.dropped] = np.nan
        return bound

    def predictions(self) -> dict[str, Floats]:
        """Predict the scores of the rows that are not complete.

        Returns:
            Each array `(n,)`, NaN for complete and dropped rows: `gain` and `mean_gain` with the standard errors of
            the predictions, `gain_error` and `mean_gain_error`; and `golden_score`, with the `standard_error` that a
            share of the anchors scored has.
        """
        names = ("gain", "gain_error", "mean_gain", "mean_gain_error", "golden_score", "standard_error")
        found = {name: np.full(len(self), np.nan) for name in names}
        open_rows = np.flatnonzero((self.num_pending > 0) & ~self.dropped)
        if self.model is None:
            return found
        for block in row_blocks(len(open_rows)):
            rows = open_rows[block]
            one_shot = self.one_shot[rows]
            available = ~np.isnan(one_shot) | self.pending[rows]
            for name in ("gain", "mean_gain"):
                value, error = self.model.predict(one_shot, available, name)
                found[name][rows], found[f"{name}_error"][rows] = value, error
            score = self.model.predict_wins(one_shot, available)
            found["golden_score"][rows] = score
            found["standard_error"][rows] = standard_error(score, np.maximum(self.num_scored[rows], 1))
        return found
