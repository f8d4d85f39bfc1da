"""What the pilot teaches about gains: how anchors go together, an order of the anchors, and how well a row is known.

A row's standardised gains are taken as one draw of a normal law with mean 0 and a covariance between the anchors. The
row's value (the mean over all its anchors) is then normal too, given its gains on some of them: it has a mean that is
linear in these gains, and a deviation that depends only on which anchors they are.

Gains are not quite normal: where all anchors are won by about as much by the better half of the rows, these rows are
known sooner than the law says. So the predictions are corrected by what the pilot shows (`prediction_errors.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scipy import linalg
from scipy.special import ndtr

from nuggets_trainer.golden.arrays import Bools, Floats, Ints, LogProbs
from nuggets_trainer.golden.gains import AnchorScale, anchor_scale, error_of_mean, gains_of
from nuggets_trainer.racing.gain_covariance import filled, regress_mean, shrunk_covariance, small_diagonal
from nuggets_trainer.racing.prediction_errors import (
    Correction,
    correct_by_value,
    doubling_sizes,
    first_of,
    inflation_of,
    interpolate,
    left_out_misses,
    skewness_of,
    usable_order,
    without_shift,
)

SMOOTHING = 0.5  # deviation of the normal law in a drawn row, beside a row of the pilot


class GainModel:
    """Normal law of the standardised gains of a row, learned from the pilot.

    Args:
        zero_shot: log-probs of the anchors, `(m,)`, nats per token; an anchor that is not finite is left out.
        one_shot: log-probs of the pilot's rows, `(p, m)`, nats per token; NaN for pairs that are not scored.
        anchor_tokens: forward tokens of each anchor, `(m,)`.
        rank_by: value that rows are ranked by: `gain`, the mean of the standardised gains, or `mean_gain`, in nats per
            token.

    Attributes:
        scale: mean and deviation of each anchor's gain over the pilot.
        covariance: covariance of the standardised gains between anchors, `(m, m)`.
        shrinkage: share of the plain law in the covariance, in [0, 1].
        order: usable anchors in the order to score them: those that tell most about the value per token come first.
        pilot_value: value of each row of the pilot, `(p,)`.
        skewness: skewness of the errors of predictions.
        pilot_error: its standard error, as if the anchors were drawn again, `(p,)`; NaN for a row with one anchor.
    """

    def __init__(self, zero_shot: LogProbs, one_shot: LogProbs, anchor_tokens: Ints, rank_by: str = "gain") -> None:
        usable = np.isfinite(zero_shot)
        self._zero_shot = np.where(usable, zero_shot, np.nan)
        self.scale: AnchorScale = anchor_scale(self._zero_shot, one_shot)
        gains = self._standardised(one_shot)
        self._pilot = filled(gains)
        self.covariance, self.shrinkage = shrunk_covariance(gains)
        # A value is the mean of `offset + weight * standardised gain` over the anchors of a row.
        self._laws = {
            "gain": (np.zeros(len(usable)), np.ones(len(usable))),
            "mean_gain": (self.scale.mean, self.scale.deviation),
        }
        self._rank_by, self._weight = rank_by, self._laws[rank_by][1]
        self._usable = usable
        self.order: Ints = usable_order(self.covariance, usable, self._weight, anchor_tokens)
        values, scored = self._laws[rank_by][0] + self._weight * self._pilot, ~np.isnan(gains)
        num_scored = np.maximum(scored.sum(axis=1), 1)
        self.pilot_value: Floats = np.where(scored, values, 0.0).sum(axis=1) / num_scored
        self.pilot_error: Floats = error_of_mean(values, scored)
        self._found: dict[tuple[str, bytes, bytes], tuple[Floats, float]] = {}
        sizes = doubling_sizes(len(self.order))
        self._shares = np.array([*sizes, len(self.order)]) / len(self.order)
        misses = left_out_misses(gains, usable, self._weight, anchor_tokens, sizes)
        self.skewness: float = skewness_of(misses)
        inflation = inflation_of(misses)
        self._corrections = {name: self._correct(name, sizes, inflation) for name in self._laws}

    def predict(self, one_shot: LogProbs, available: Bools, name: str | None = None) -> tuple[Floats, Floats]:
        """Predict the value that rows have once they are scored on all their anchors.

        Args:
            one_shot: log-probs so far, `(r, m)`; NaN for pairs that are not scored.
            available: pairs that are scored or may be, `(r, m)`.
            name: value to predict, `gain` or `mean_gain`; None is the one that rows are ranked by.

        Returns:
            Expected values and their standard errors, each `(r,)`. A row that is scored on all its anchors has its
            own value, with an error of 0.
        """
        name = name or self._rank_by
        offset, _ = self._laws[name]
        gains = self._standardised(one_shot)
        value, error = np.empty(len(gains)), np.empty(len(gains))
        for rows, scored, own in self._kinds(gains, available):
            coefficients, plain_error = self._predictor(name, scored, own)
            known = np.where(scored, gains[rows], 0.0)
            # A sum per row, not a matrix product, so that a row's value does not depend on the rows beside it.
            predicted = (known * coefficients).sum(axis=1)
            correction = interpolate(self._corrections[name], self._shares, scored.sum() / own.sum(), predicted)
            value[rows] = offset[own].mean() + predicted + plain_error * correction.shift
            error[rows] = plain_error * correction.factor
        return value, error

    def predict_wins(self, one_shot: LogProbs, available: Bools) -> Floats:
        """Predict the golden score of rows: anchors won, and probabilities to win those that are not scored.

        Args:
            one_shot: log-probs so far, `(r, m)`, as in `predict`.
            available: pairs that are scored or may be, `(r, m)`.

        Returns:
            Expected golden scores, `(r,)`, in [0, 1].
        """
        gains = self._standardised(one_shot)
        score = np.empty(len(gains))
        needed = -self.scale.mean / self.scale.deviation  # standardised gain above which an anchor is won
        for rows, scored, own in self._kinds(gains, available):
            won = (one_shot[rows] > self._zero_shot) & scored
            left = own & ~scored
            block = self.covariance[np.ix_(scored, scored)]
            across = self.covariance[np.ix_(scored, left)]
            coefficients = np.zeros_like(across)
            if len(block):
                coefficients = linalg.solve(block + small_diagonal(block), across, assume_a="pos")
            variance = np.diag(self.covariance)[left] - (across * coefficients).sum(axis=0)
            expected = gains[np.ix_(rows, np.flatnonzero(scored))] @ coefficients
            chance = ndtr((expected - needed[left]) / np.sqrt(np.maximum(variance, 1e-12)))
            score[rows] = (won.sum(axis=1) + chance.sum(axis=1)) / own.sum()
        return score

    def prior(self) -> tuple[float, float]:
        """Return the expected value of a row that is not scored yet, and its standard error."""
        _, error = self._predictor(self._rank_by, np.zeros_like(self._usable), self._usable)
        factor = float(self._corrections[self._rank_by][0].factor[0])
        return float(self._laws[self._rank_by][0][self._usable].mean()), error * factor

    def draw(self, generator: np.random.Generator, num_rows: int) -> LogProbs:
        """Draw the log-probs of rows, `(num_rows, m)`; NaN for anchors that are left out.

        Each is a row of the pilot, moved half way towards a draw by the normal law, so that a pool whose best rows are
        closer together than the law says is drawn like that.
        """
        root = linalg.cholesky(self.covariance + small_diagonal(self.covariance), lower=True)
        gains = SMOOTHING * generator.standard_normal((num_rows, len(root))) @ root.T
        gains += math.sqrt(1 - SMOOTHING**2) * self._pilot[generator.integers(0, len(self._pilot), num_rows)]
        log_probs: LogProbs = self._zero_shot + (self.scale.mean + self.scale.deviation * gains).astype(np.float32)
        return log_probs

    def _standardised(self, one_shot: LogProbs) -> Floats:
        """Return the standardised gains, NaN for pairs that are not scored, `(r, m)`."""
        gains, scored = gains_of(self._zero_shot, one_shot)
        return np.where(scored, self.scale.standardise(gains), np.nan)

    def _kinds(self, gains: Floats, available: Bools) -> Iterator[tuple[Ints, Bools, Bools]]:
        """Yield rows that are scored on the same anchors, with these anchors and all that they may be scored on.

        They are few: all rows are scored in one order, by a few numbers of anchors.
        """
        patterns = np.concatenate([np.packbits(~np.isnan(gains), axis=1), np.packbits(available, axis=1)], axis=1)
        kinds, kind_of = np.unique(patterns, axis=0, return_inverse=True)
        for kind in range(len(kinds)):
            rows = np.flatnonzero(kind_of.reshape(-1) == kind)
            own = available[rows[0]]
            yield rows, own & ~np.isnan(gains[rows[0]]), own

    def _predictor(self, name: str, scored: Bools, own: Bools) -> tuple[Floats, float]:
        """Return the coefficients of the anchors, `(m,)`, and the standard error of the prediction.

        The error is that of the normal law, before any correction.

        Args:
            name: value to predict.
            scored: anchors that the row is scored on, `(m,)`.
            own: all anchors that it can be scored on, `(m,)`; at least one.
        """
        key = name, np.packbits(scored).tobytes(), np.packbits(own).tobytes()
        if key not in self._found:
            self._found[key] = regress_mean(self.covariance, self._laws[name][1], scored, own)
        return self._found[key]

    def _correct(self, name: str, sizes: list[int], inflation: Floats) -> list[Correction]:
        """Find out how far predictions of a value are off by each number of anchors, and by all of them.

        Args:
            name: value to predict.
            sizes: numbers of anchors, `(s,)`.
            inflation: factor by which the errors are larger than expected, `(s,)`.
        """
        _, weight = self._laws[name]
        value = (weight * self._pilot)[:, self._usable].mean(axis=1)
        found = [without_shift(float(inflation[0]))]  # without an anchor, all rows have one prediction
        for size, factor in zip(sizes[1:], inflation[1:].tolist(), strict=True):
            scored = first_of(self.order, size, len(self._usable))
            coefficients, error = regress_mean(self.covariance, weight, scored, self._usable)
            found.append(correct_by_value(self._pilot @ coefficients, value, error, factor))
        return [*found, without_shift(1.0)]
