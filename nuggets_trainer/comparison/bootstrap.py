"""Intervals of losses and of their differences, by resampling seeds and held-out rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]


class Bootstrap:
    """Resampled means of losses. All arms get the same draws, so differences between arms are paired.

    The bootstrap is hierarchical: each resample draws seeds with replacement and held-out rows with replacement. A
    mean weighs rows by their completion tokens. Run s of two arms has the same seed, so it is drawn for both. With few
    seeds the part of the interval that comes from seeds is too narrow by `sqrt(1 - 1/seeds)`.

    Args:
        num_tokens: numbers of completion tokens of the held-out rows, `(h,)`.
        num_seeds: number of runs of each arm.
        num_resamples: number of draws.
        seed: seed of the draws.
    """

    def __init__(self, num_tokens: npt.NDArray[np.int64], num_seeds: int, num_resamples: int, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        h = len(num_tokens)
        rows = generator.multinomial(h, np.full(h, 1 / h), size=num_resamples) * num_tokens
        self._tokens = num_tokens / num_tokens.sum()
        self._rows = rows / rows.sum(axis=1, keepdims=True)
        self._seeds = generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=num_resamples)
        self._num_seeds = num_seeds

    def mean(self, losses: Floats) -> Floats:
        """Return the loss per completion token of each seed, `(seeds,)`."""
        means: Floats = losses @ self._tokens
        return means

    def resampled(self, losses: Floats) -> Floats:
        """Return the mean over seeds in each resample, `(resamples,)`."""
        assert losses.shape[0] == self._num_seeds, (losses.shape, self._num_seeds)
        means: Floats = ((losses @ self._rows.T) * self._seeds.T).sum(axis=0) / self._num_seeds
        return means

    def difference(self, a: Floats, b: Floats) -> tuple[float, float, float]:
        """Return the mean of `a` minus `b`, and the ends of its 95% percentile interval."""
        low, high = np.quantile(self.resampled(a) - self.resampled(b), [0.025, 0.975])
        return float(self.mean(a).mean() - self.mean(b).mean()), float(low), float(high)

    def interval(self, losses: Floats) -> Interval:
        """Return the 95% percentile interval of the mean."""
        low, high = np.quantile(self.resampled(losses), [0.025, 0.975])
        return float(low), float(high)
