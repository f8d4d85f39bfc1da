"""How much there is to score, how fast it goes, and how long it still takes. Pure arithmetic.

The time is counted in forward tokens and not in pairs, because candidates and anchors differ in length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nuggets_trainer.wording import duration, rounded

LEAST_SPREAD = 0.1  # smallest spread of a speed: machines run less evenly than a few seconds show
UNKNOWN_SPREAD = 0.25  # spread of a speed that was measured once

Range = tuple[float, float, float]  # low, expected, high


@dataclass(frozen=True)
class Workload:
    """Sizes of what is to be scored, over all processes.

    Attributes:
        num_candidates: number of candidates that can be scored.
        num_anchors: number of anchors that can be scored.
        num_pairs: number of pairs of these.
        num_stored: number of pairs that need no score, because they are stored or candidate and anchor are equal.
        tokens: forward tokens of the other pairs, prefixes included.
    """

    num_candidates: int
    num_anchors: int
    num_pairs: int
    num_stored: int
    tokens: float

    def describe(self) -> str:
        """Return the sizes in one line."""
        stored = f", {self.num_stored:,} of them stored or left out" if self.num_stored else ""
        return (
            f"{self.num_candidates:,} candidates x {self.num_anchors:,} anchors = {self.num_pairs:,} pairs{stored}; "
            f"{rounded(self.tokens)} tokens to score them all"
        )

    def scaled(self, factor: float) -> Workload:
        """Return the sizes for a pool that is `factor` times as large."""
        return Workload(
            num_candidates=round(factor * self.num_candidates),
            num_anchors=self.num_anchors,
            num_pairs=round(factor * self.num_pairs),
            num_stored=round(factor * self.num_stored),
            tokens=factor * self.tokens,
        )


@dataclass(frozen=True)
class Measurement:
    """What some seconds of scoring have shown.

    Attributes:
        workload: sizes before the first of these pairs was scored.
        tokens_left: forward tokens that the schedule still takes: low, expected, high.
        tokens_done: forward tokens of the pairs that were scored to measure.
        tokens_per_second: speed of all processes together.
        spread: uncertainty of that speed, as a share of it.
        cut: golden score that the golden set is expected to end at; None before the pilot of a race is scored.
        setup_seconds: time from the start to the first pair: rendering, hashing the weights, comparing the engine's
            paths.
        finished: whether nothing is left to score.
    """

    workload: Workload
    tokens_left: Range
    tokens_done: float
    tokens_per_second: float
    spread: float
    cut: float | None
    setup_seconds: float
    finished: bool

    @property
    def seconds_left(self) -> Range:
        """Time that scoring still takes, without setting up."""
        return time_left(self.tokens_left, self.tokens_per_second, self.spread)


def time_left(tokens_left: Range, tokens_per_second: float, spread: float) -> Range:
    """Return the seconds for these tokens; the bounds take in the spread of the speed."""
    if not tokens_per_second:  # nothing was left to score
        return 0.0, 0.0, 0.0
    low, expected, high = tokens_left
    slowest, fastest = tokens_per_second / (1 + spread), tokens_per_second * (1 + spread)
    return low / fastest, expected / tokens_per_second, high / slowest


def describe_time(tokens_left: Range, tokens_per_second: float, spread: float) -> str:
    """Return the remaining time in one line."""
    low, expected, high = map(duration, time_left(tokens_left, tokens_per_second, spread))
    return f"about {expected} left ({low} to {high}) at {tokens_per_second:,.0f} tokens per second"


def speed_of(calls: list[tuple[float, float]]) -> tuple[float, float]:
    """Compute the tokens per second, and their spread as a share.

    The first of several calls is left out, because it warms up. The spread is twice the standard error of the mean.

    Args:
        calls: tokens and seconds of each call of the engine, at least one.

    Example:
        >>> speed_of([(100, 9.0), (100, 1.0), (300, 3.0)])
        (100.0, 0.1)
    """
    if len(calls) > 2:
        calls = calls[1:]
    tokens, seconds = np.array(calls, dtype=np.float64).T
    speed = float(tokens.sum() / max(seconds.sum(), 1e-9))
    n = len(calls)
    if n < 2:
        return speed, UNKNOWN_SPREAD
    residuals = seconds - tokens / speed
    error = math.sqrt((residuals**2).sum() * n / (n - 1)) / max(seconds.sum(), 1e-9)
    return speed, max(LEAST_SPREAD, 2 * error)


def speed_together(tokens_left: Sequence[float], speeds: Sequence[float]) -> float:
    """Compute the tokens per second of processes that each have their own share: the slowest one ends the job.

    Args:
        tokens_left: forward tokens left of each process.
        speeds: tokens per second of each; 0 where it had nothing to score.

    Example:
        >>> speed_together([100, 100], [10, 5]), speed_together([100, 0], [10, 5])
        (10.0, 10.0)
    """
    longest = 0.0  # seconds
    for left, speed in zip(tokens_left, speeds, strict=True):
        if speed:
            longest = max(longest, left / speed)
    return sum(tokens_left) / longest if longest else sum(speeds)
