"""What the pilot teaches about gains: how anchors go together, an order of the anchors, and how well a row is known.

A row's standardised gains are taken as one draw of a normal law with mean 0 and a covariance between the anchors. The
row's value (the mean over all its anchors) is then normal too, given its gains on some of them: it has a mean that is
linear in these gains, and a deviation that depends only on which anchors they are.

The covariance is that of the pilot, drawn towards a plain law in which all anchors are alike
(`z[i, j] = quality[i] + noise[i, j]`), by as much as the sampling error of the covariances asks for (Schaefer and
Strimmer, 2005). If that law is right, nearly all of it is taken. On real gains a part is: four well chosen anchors
then tell as much as 8 to 15 in a random order under the plain law.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scipy import linalg
from scipy.special import ndtr

from nuggets_trainer.golden.arrays import Bools, Floats, Ints, LogProbs
from nuggets_trainer.golden.gains import AnchorScale, anchor_scale, gains_of

FOLDS = 8  # parts of the pilot that are predicted from the others
SMOOTHING = 0.5  # deviation of the normal law in a drawn row, beside a row of the pilot
FEWEST_ROWS = 8  # a covariance of fewer rows says nothing


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
    """

    def __init__(self, zero_shot: LogProbs, one_shot: LogProbs, anchor_tokens: Ints, rank_by: str = "gain") -> None:
        usable = np.isfinite(zero_shot)
        self._zero_shot = np.where(usable, zero_shot, np.nan)
        self.scale: AnchorScale = anchor_scale(self._zero_shot, one_shot)
        gains = self._standardised(one_shot)
        self._pilot = _filled(gains)
        self.covariance, self.shrinkage = shrunk_covariance(gains)
        # A value is the mean of `offset + weight * standardised gain` over the anchors of a row.
        self._laws = {
            "gain": (np.zeros(len(usable)), np.ones(len(usable))),
            "mean_gain": (self.scale.mean, self.scale.deviation),
        }
        self._rank_by, self._weight = rank_by, self._laws[rank_by][1]
        self._anchor_tokens, self._usable = anchor_tokens, usable
        self.order: Ints = self._order_by(self.covariance)
        self._found: dict[tuple[str, bytes, bytes], tuple[Floats, float]] = {}
        self._sizes, self._inflation = self._check_errors(gains)

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
            coefficients, error[rows] = self._predictor(name, scored, own)
            known = np.where(scored, gains[rows], 0.0)
            # A sum per row, not a matrix product, so that a row's value does not depend on the rows beside it.
            value[rows] = offset[own].mean() + (known * coefficients).sum(axis=1)
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
                coefficients = linalg.solve(block + _jitter(block), across, assume_a="pos")
            variance = np.diag(self.covariance)[left] - (across * coefficients).sum(axis=0)
            expected = gains[np.ix_(rows, np.flatnonzero(scored))] @ coefficients
            chance = ndtr((expected - needed[left]) / np.sqrt(np.maximum(variance, 1e-12)))
            score[rows] = (won.sum(axis=1) + chance.sum(axis=1)) / own.sum()
        return score

    def prior(self) -> tuple[float, float]:
        """Return the expected value of a row that is not scored yet, and its standard error."""
        _, error = self._predictor(self._rank_by, np.zeros_like(self._usable), self._usable)
        return float(self._laws[self._rank_by][0][self._usable].mean()), error

    def draw(self, generator: np.random.Generator, num_rows: int) -> LogProbs:
        """Draw the log-probs of rows, `(num_rows, m)`; NaN for anchors that are left out.

        Each is a row of the pilot, moved half way towards a draw by the normal law, so that a pool whose best rows are
        closer together than the law says is drawn like that.
        """
        root = linalg.cholesky(self.covariance + _jitter(self.covariance), lower=True)
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

        Args:
            name: value to predict.
            scored: anchors that the row is scored on, `(m,)`.
            own: all anchors that it can be scored on, `(m,)`; at least one.
        """
        key = name, np.packbits(scored).tobytes(), np.packbits(own).tobytes()
        if key not in self._found:
            coefficients, error = _regression(self.covariance, self._laws[name][1], scored, own)
            error *= float(np.interp(scored.sum() / own.sum(), self._sizes, self._inflation))
            self._found[key] = coefficients, error
        return self._found[key]

    def _order_by(self, covariance: Floats) -> Ints:
        """Order the usable anchors by a covariance, `(u,)`."""
        places = np.flatnonzero(self._usable)
        block = covariance[np.ix_(places, places)]
        order: Ints = places[informative_order(block, self._weight[places], self._anchor_tokens[places])]
        return order

    def _check_errors(self, gains: Floats) -> tuple[Floats, Floats]:
        """Predict each part of the pilot from the others, and compare the errors with those that were expected.

        A covariance and an order of few rows fit these rows better than others, so the expected errors are too small.

        Args:
            gains: standardised gains of the pilot, `(p, m)`.

        Returns:
            Shares of the anchors, and the factor by which the errors are larger than expected there, at least 1.
        """
        whole = _filled(gains)
        sizes = _doubling_sizes(len(self.order))
        squares = np.zeros(len(sizes))
        for fold in range(min(FOLDS, len(whole) // 2)):
            left_out = np.arange(len(whole)) % FOLDS == fold
            covariance, _ = shrunk_covariance(gains[~left_out])
            order = self._order_by(covariance)
            others = whole[left_out] - whole[~left_out].mean(axis=0)
            value = (self._weight * others)[:, self._usable].mean(axis=1)
            for place, size in enumerate(sizes):
                scored = np.zeros(len(self._usable), dtype=np.bool_)
                scored[order[:size]] = True
                coefficients, error = _regression(covariance, self._weight, scored, self._usable)
                misses = value - others @ coefficients
                squares[place] += np.square(misses / error).sum() if error > 0 else len(misses)
        inflation = np.sqrt(np.maximum(1, squares / max(1, len(whole))))
        return np.array([*sizes, len(self.order)]) / len(self.order), np.array([*inflation, 1.0])


def shrunk_covariance(gains: Floats) -> tuple[Floats, float]:
    """Estimate the covariance between anchors, drawn towards that of the plain law.

    In the plain law all anchors have one variance and all pairs of anchors one covariance. Its share is
    `sum of var(s[j, k]) / sum of (s[j, k] - t[j, k])**2`, for covariances s of the rows and t of the law (Schaefer and
    Strimmer, 2005), at most 1.

    Args:
        gains: standardised gains of p rows, `(p, m)`; NaN for pairs that are not scored.

    Returns:
        The covariance, `(m, m)`, and the share of the plain law, in [0, 1].
    """
    gains = _filled(gains)
    p, m = gains.shape
    centred = gains - gains.mean(axis=0)
    products = centred.T @ centred
    sample = products / max(1, p - 1)
    variance = float(np.trace(sample)) / m
    common = 0.0
    if m > 1:
        common = max(0.0, (float(sample.sum()) - m * variance) / (m * (m - 1)))
    plain = np.full((m, m), common)
    np.fill_diagonal(plain, variance if variance > 0 else 1.0)
    distance = float(np.square(sample - plain).sum())
    if p < FEWEST_ROWS or distance == 0:
        return plain, 1.0
    squares = np.square(centred)
    scatter = float((squares.T @ squares - np.square(products) / p).sum())
    share = min(1.0, scatter * p / (p - 1) ** 3 / distance)
    return share * plain + (1 - share) * sample, share


def informative_order(covariance: Floats, weight: Floats, tokens: Ints) -> Ints:
    """Order anchors so that each tells most about the weighted sum of all, per token, given those before it.

    Args:
        covariance: covariance of the anchors, `(m, m)`.
        weight: weight of each anchor in the sum, `(m,)`.
        tokens: cost of each anchor, `(m,)`.

    Returns:
        Places of the anchors, `(m,)`.
    """
    m = len(covariance)
    order = np.empty(m, dtype=np.int64)
    rows = np.zeros((m, m))  # Cholesky factor in the new order
    left = np.diag(covariance).copy()  # variances given the anchors so far
    shared = covariance @ weight  # covariances with the sum given the anchors so far
    open_anchors = np.ones(m, dtype=np.bool_)
    smallest = 1e-9 * max(float(left.max(initial=0.0)), 1e-300)
    for place in range(m):
        told = np.where(left > smallest, np.square(shared) / np.maximum(left, smallest), 0.0) / tokens
        # Rounded, so that equal anchors come in their own order on every machine.
        best = int(np.argmax(np.where(open_anchors, np.round(told / max(told.max(), 1e-300), 9), -1.0)))
        order[place], open_anchors[best] = best, False
        if left[best] > smallest:
            row = (covariance[best] - rows[:place].T @ rows[:place, best]) / math.sqrt(left[best])
            rows[place] = row
            shared -= row * (shared[best] / math.sqrt(left[best]))
            left -= np.square(row)
    return order


def _regression(covariance: Floats, weight: Floats, scored: Bools, own: Bools) -> tuple[Floats, float]:
    """Regress the mean of `weight * gain` over `own` anchors on the gains of the scored ones.

    Returns:
        Coefficients, `(m,)`, 0 where an anchor is not scored, and the standard error of the prediction.
    """
    target = np.where(own, weight, 0.0) / own.sum()
    if scored.sum() == own.sum():
        return target, 0.0
    with_target = covariance @ target
    coefficients = np.zeros(len(target))
    block = covariance[np.ix_(scored, scored)]
    if len(block):
        coefficients[scored] = linalg.solve(block + _jitter(block), with_target[scored], assume_a="pos")
    variance = float(target @ with_target - coefficients @ with_target)
    return coefficients, math.sqrt(max(variance, 0.0))


def _jitter(covariance: Floats) -> Floats:
    """Return a small diagonal that keeps a covariance of repeated anchors invertible."""
    jitter: Floats = np.eye(len(covariance)) * (1e-9 * max(float(np.diag(covariance).mean()), 1e-30))
    return jitter


def _filled(gains: Floats) -> Floats:
    """Put the mean of a row in the places of its pairs that are not scored."""
    scored = ~np.isnan(gains)
    mean = np.where(scored, gains, 0.0).sum(axis=1) / np.maximum(scored.sum(axis=1), 1)
    return np.where(scored, gains, mean[:, None])


def _doubling_sizes(num_anchors: int) -> list[int]:
    """Return 0, 1, 2, 4, ... below a number of anchors."""
    sizes = [0]
    while max(1, 2 * sizes[-1]) < num_anchors:
        sizes.append(max(1, 2 * sizes[-1]))
    return sizes
