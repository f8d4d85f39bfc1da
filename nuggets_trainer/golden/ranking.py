"""The number that rows are ranked by, the order that breaks all ties, and how many rows a rule keeps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nuggets_trainer.golden.arrays import Floats, Ints
from nuggets_trainer.golden.scores import GoldenScores


@dataclass(frozen=True)
class RankedValue:
    """A number that rows can be ranked by, and how it is written for people.

    Attributes:
        name: name of the array in `GoldenScores`, or of a signal of the row itself.
        error: name of the array with its standard errors; "" for a signal.
        tie_breaker: name of the array that decides between equal values.
        words: name in a sentence.
        unit: unit behind a number, after a space; "" for a share.
        decimals: digits after the point.
        sign: 1 if the highest values come first, -1 if the lowest do.
    """

    name: str
    error: str
    tie_breaker: str
    words: str
    unit: str
    decimals: int
    sign: int = 1

    @property
    def is_signal(self) -> bool:
        """Whether it is a signal of the row itself, which no pair decides."""
        return not self.error

    def of(self, scores: GoldenScores) -> Floats:
        """Return the value of each row, `(n,)`, NaN where the row has none; `scores.signals` has the signals.

        Raises:
            ValueError: if these scores do not have the signal.
        """
        if self.is_signal:
            signals: dict[str, Floats] = getattr(scores, "signals", {})  # of stored scores, and of a pool's
            if self.name not in signals:
                raise ValueError(
                    f"`rank_by={self.name!r}` is a signal of each row, and these scores have none of this name. Score "
                    f"with `rank_by={self.name}`, with `row_signals`, or for `ica` with `ica`."
                )
            return signals[self.name]
        values: Floats = getattr(scores, self.name)
        return values

    def error_of(self, scores: GoldenScores) -> Floats:
        """Return the standard error of each value, `(n,)`; NaN where it is not known, as for a signal."""
        if self.is_signal:
            return np.full(len(scores.golden_score), np.nan)
        errors: Floats = getattr(scores, self.error)
        return errors

    def write(self, value: float) -> str:
        """Write a value or its standard error, without the unit.

        Example:
            >>> RANKED_VALUES["mean_gain"].write(0.01234)
            '0.0123'
        """
        return f"{value:.{self.decimals}f}"


RANKED_VALUES = {
    "golden_score": RankedValue("golden_score", "standard_error", "mean_gain", "golden score", "", 3),
    "gain": RankedValue("gain", "gain_error", "golden_score", "standardised gain", " deviations", 3),
    "mean_gain": RankedValue("mean_gain", "mean_gain_error", "golden_score", "mean gain", " nats per token", 4),
}
# Signals of a row by itself; a tie goes to the higher golden score.
SIGNAL_VALUES = {
    "loss": RankedValue("loss", "", "golden_score", "loss", " nats per token", 3, sign=-1),
    "ifd": RankedValue("ifd", "", "golden_score", "IFD", "", 3),
    "similarity": RankedValue("similarity", "", "golden_score", "similarity to the anchors", "", 3),
    "similarity_turn": RankedValue("similarity_turn", "", "golden_score", "turn by similarity", "", 0, sign=-1),
    "ica": RankedValue("ica", "", "golden_score", "gain from anchors in context", " nats per token", 4),
    "num_tokens": RankedValue("num_tokens", "", "golden_score", "number of tokens", "", 0),
}


def ranked_value(rank_by: str) -> RankedValue:
    """Return the value of a name that `rank_by` may have.

    Raises:
        ValueError: if there is no such name.
    """
    values = RANKED_VALUES | SIGNAL_VALUES
    if rank_by not in values:
        raise ValueError(f"`rank_by` must be one of {', '.join(values)}, got {rank_by!r}.")
    return values[rank_by]


def check_rule(rule: tuple[str, float]) -> None:
    """Refuse a rule that keeps no sensible number of rows; one from Python has passed no check of options before.

    Args:
        rule: name and value of the rule, see `select_golden_set`.

    Raises:
        ValueError: if the name is unknown, or if its value is outside its range.
    """
    name, value = rule
    ranges = {
        "top_fraction": ("a fraction in (0, 1]", 0 < value <= 1),
        "top_k": ("a whole number from 1 on", value >= 1 and float(value).is_integer()),
        "threshold": ("a number", not np.isnan(value)),
        "max_tokens": ("a number from 1 on", value >= 1),
    }
    if name not in ranges:
        raise ValueError(f"`rule` must be one of {', '.join(ranges)} with its value, got {rule!r}.")
    expected, fits = ranges[name]
    if not fits:
        raise ValueError(f"`{name}` must be {expected}, got {value!r}.")


def rank_candidates(scores: GoldenScores, rank_by: str = "golden_score") -> Ints:
    """Rank all candidates that have a value.

    Candidates are ordered by the chosen value (highest first), then by mean gain, or by golden score if a gain is the
    chosen value (highest first), then by pool index (lowest first). This order is total, so it is the same on every
    machine.

    Args:
        scores: scores of the whole pool, `(n,)`; for a signal, `signals` of them has it.
        rank_by: value to rank by: `golden_score`, `gain` or `mean_gain`, or the name of a signal.

    Returns:
        Pool indices, best first.

    Example:
        >>> import numpy as np
        >>> from nuggets_trainer.golden.scores import golden_scores
        >>> scores = golden_scores(np.zeros(3), np.array([[0.1, 0.1, -0.1], [0.9, -0.1, -0.1], [np.nan] * 3]))
        >>> rank_candidates(scores).tolist(), rank_candidates(scores, rank_by="mean_gain").tolist()
        ([0, 1], [1, 0])
    """
    ranked = ranked_value(rank_by)
    values, tie_breaker = ranked.of(scores), getattr(scores, ranked.tie_breaker)
    order = np.lexsort((np.arange(len(values)), -tie_breaker, -ranked.sign * values))
    return order[~np.isnan(values[order])].astype(np.int64)


def written_rule(rule: tuple[str, float]) -> str:
    """Write a selection rule.

    Example:
        >>> written_rule(("top_fraction", 0.1)), written_rule(("max_tokens", 2000000))
        ('top_fraction=0.1', 'max_tokens=2,000,000')
    """
    name, value = rule
    return f"{name}={value:,}" if isinstance(value, int) else f"{name}={value:g}"


def most_within(tokens: Floats, max_tokens: float) -> int:
    """Count the rows of the largest set that a token budget has room for: the shortest rows.

    No golden set within the budget has more rows, whatever their order.

    Args:
        tokens: tokens of each row, `(n,)`.
        max_tokens: the budget.

    Example:
        >>> most_within(np.array([50, 10, 20, 30]), 60)
        3
    """
    return int((np.cumsum(np.sort(tokens)) <= max_tokens).sum())


def num_kept(
    values: Floats,
    num_rows: int,
    num_candidates: int,
    rule: tuple[str, float],
    ranked: RankedValue,
    tokens: Floats | None = None,
) -> int:
    """Count the candidates that a rule keeps.

    Args:
        values: values of the candidates that have one, best first.
        num_rows: number of rows in the pool.
        num_candidates: number of rows that have a value or were eliminated by a race.
        rule: name and value of the rule, see `select_golden_set`.
        ranked: names and unit of the values.
        tokens: tokens of the candidates that have a value, best first; None for a rule other than `max_tokens`.

    Raises:
        ValueError: if the rule asks for more rows than have a value, or for none.
    """
    name, value = rule
    if len(values) == 0 and num_candidates:
        raise ValueError(
            f"No row has a {ranked.words}, because a race left out what it needs. Score with `schedule='exact'` into "
            "the same `score_dir`: it reuses what is stored."
        )
    if len(values) == 0:
        raise ValueError(f"No candidate has a score: all {num_rows} rows of the pool were dropped.")
    if name == "top_k":
        if value > len(values):
            raise ValueError(
                f"`top_k` must be at most the number of rows with a score ({len(values):,} of {num_rows:,}), "
                f"got {int(value):,}. Lower `top_k` or use `top_fraction`."
            )
        return int(value)
    if name == "top_fraction":
        return max(1, round(value * num_candidates))
    if name == "max_tokens":
        return _num_within_budget(tokens, value)
    assert name == "threshold", name
    kept = int((ranked.sign * values > ranked.sign * value).sum())
    if kept == 0:
        best = f"{values[0]:.4f}{ranked.unit}"
        side, change = {1: ("below", "Lower"), -1: ("above", "Raise")}[ranked.sign]
        raise ValueError(
            f"`threshold` must be {side} the best {ranked.words} ({best}), got {value}. {change} it, or use "
            "`top_fraction`."
        )
    return kept


def _num_within_budget(tokens: Floats | None, max_tokens: float) -> int:
    """Count the rows before the first one that would pass the budget."""
    if tokens is None or np.isnan(tokens).any():
        raise ValueError(f"`max_tokens={max_tokens:,}` needs the tokens of every candidate (`total_tokens`).")
    kept = int((np.cumsum(tokens) <= max_tokens).sum())
    if kept == 0:
        raise ValueError(
            f"`max_tokens` must be at least the tokens of the best row ({int(tokens[0]):,}), got {int(max_tokens):,}. "
            "Raise it, or use `require` to leave long rows out: `total_tokens <= 2000`."
        )
    return kept
