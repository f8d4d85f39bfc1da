"""How much there is to score, how fast it goes, and how long it still takes. Pure arithmetic.

The time is counted in forward tokens and not in pairs, because candidates and anchors differ in length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nuggets_trainer.wording import duration, rounded

LEAST_SPREAD = 0.1  # of a speed: machines do not run evenly, whatever a few seconds say

Range = tuple[float, float, float]  # low, expected, high


@dataclass(frozen=True)
class Workload:
    """What is to be scored, over all processes.

    Attributes:
        num_candidates, num_anchors: that can be scored.
        num_pairs: of them.
        num_stored: pairs that the store has already, and those of a row with itself or of its double.
        tokens: forward tokens of all pairs that it does not have, prefixes included.
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
        """Return what a pool has that is `factor` times as large."""
        counts = (round(factor * n) for n in (self.num_candidates, self.num_pairs, self.num_stored))
        candidates, pairs, stored = counts
        return Workload(candidates, self.num_anchors, pairs, stored, factor * self.tokens)


@dataclass(frozen=True)
class Measurement:
    """What some seconds of scoring have shown.

    Attributes:
        workload: before the first of these pairs was scored.
        tokens_left: forward tokens that the schedule still takes, expected, and within which bounds.
        tokens_done: those of the pairs that were scored to measure.
        tokens_per_second: of all processes together.
        spread: of that speed, as a share of it.
        cut: golden score that the golden set is expected to end at; None without a race's pilot.
        setup_seconds: from the start to the first pair: rendering, hashing the weights, the engine's self-check.
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
    """Seconds for these tokens, with the spread of the speed in the bounds."""
    if not tokens_per_second:  # nothing was left to score
        return 0.0, 0.0, 0.0
    low, expected, high = (tokens / tokens_per_second for tokens in tokens_left)
    return low / (1 + spread), expected, high * (1 + spread)


def describe_time(tokens_left: Range, tokens_per_second: float, spread: float) -> str:
    """Return the time to come in one line."""
    low, expected, high = map(duration, time_left(tokens_left, tokens_per_second, spread))
    return f"about {expected} left ({low} to {high}) at {tokens_per_second:,.0f} tokens per second"


def speed_of(calls: list[tuple[float, float]]) -> tuple[float, float]:
    """Tokens per second, and its spread as a share, from the tokens and seconds of each call.

    The first of several calls is left out: it warms up. The spread is twice the standard error of the mean.

    Example:
        >>> speed_of([(100, 9.0), (100, 1.0), (300, 3.0)])
        (100.0, 0.1)
    """
    calls = calls[1:] if len(calls) > 2 else calls
    tokens, seconds = (sum(column) for column in zip(*calls, strict=True))
    speed = tokens / max(seconds, 1e-9)
    if len(calls) < 2:
        return speed, 0.25
    residuals = [second - token / speed for token, second in calls]
    error = math.sqrt(sum(r * r for r in residuals) * len(calls) / (len(calls) - 1)) / max(seconds, 1e-9)
    return speed, max(LEAST_SPREAD, 2 * error)


def speed_together(tokens_left: Sequence[float], speeds: Sequence[float]) -> float:
    """Tokens per second of processes that have a share of their own each: the last one that is through ends the job.

    Args:
        tokens_left: of each process.
        speeds: tokens per second of each; 0 where it had nothing to score.

    Example:
        >>> speed_together([100, 100], [10, 5]), speed_together([100, 0], [10, 5])
        (10.0, 10.0)
    """
    slowest = max((left / speed for left, speed in zip(tokens_left, speeds, strict=True) if speed), default=0.0)
    return sum(tokens_left) / slowest if slowest else sum(speeds)
