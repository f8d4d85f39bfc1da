"""From a ranking to the golden set: a selection rule, coverage, and limits."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

from nuggets_trainer.golden.arrays import Bools, Floats, Ints
from nuggets_trainer.golden.diversity import Choice, Diversity, choose_diverse
from nuggets_trainer.golden.limits import FAILS_REQUIRE
from nuggets_trainer.golden.ranking import (
    RANKED_VALUES,
    RankedValue,
    check_rule,
    num_kept,
    rank_candidates,
    ranked_value,
    written_rule,
)
from nuggets_trainer.golden.scores import VALUES, GoldenScores
from nuggets_trainer.wording import counted, tally


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class GoldenSet:
    """The candidates that are kept, best first.

    Attributes:
        indices: pool indices in rank order, `(k,)` int64.
        golden_score: golden score of each candidate kept, `(k,)`.
        standard_error: standard error of each golden score, `(k,)`.
        mean_gain: mean gain of each candidate kept, `(k,)`, nats per token.
        mean_gain_error: standard error of each mean gain, `(k,)`, nats per token.
        gain: standardised gain of each candidate kept, `(k,)`, in deviations; NaN if it is not known.
        gain_error: standard error of each standardised gain, `(k,)`, in deviations.
        rule: name and value of the selection rule, e.g. `("top_fraction", 0.1)`.
        num_rows: number of rows in the pool.
        num_candidates: number of rows that the set was chosen from; the others were dropped.
        pool_golden_score_mean: mean golden score of all candidates, to compare with that of the set; None after a
            race, which does not score all of them on all anchors.
        cut: value of the last candidate kept: its golden score, or the gain that rows are ranked by.
        ties_at_cut: number of candidates of the pool whose value equals `cut`.
        ties_kept: number of these that are in the set; the others lost on the tie-breaker or the pool index.
        passed_over: number of rows with a score that were left out, by reason: `fails_require` (of all of them),
            `full_group`, `full_prompt`, `near_duplicate`.
        num_missing: number of rows that the rule asks for and that are not there, because too many were passed over.
        spread: figures on how the gains are spread over the anchors (`coverage.GainSpread`), and the same figures of
            the ranking's set (`ranking_coverage`, ...); empty without coverage.
        num_unlike_ranking: number of rows in the ranking's set that are not in this one; None if this is the ranking.
        groups: number of `candidates` in each group and of those `kept`, largest group or shortest class of lengths
            first; empty without quotas.
        rank_by: value that the rows are ranked by: `golden_score`, `gain` or `mean_gain`, or a signal.
        pool_mean: mean of that value over all candidates; None after a race.
        signal: signal that the rows are ranked by, of each candidate kept, `(k,)`; None for the other values.
        num_tokens: number of tokens of the rows kept, where the rule is a token budget; None for the other rules.
    """

    indices: Ints
    golden_score: Floats
    standard_error: Floats
    mean_gain: Floats
    mean_gain_error: Floats
    gain: Floats
    gain_error: Floats
    rule: tuple[str, float]
    num_rows: int
    num_candidates: int
    pool_golden_score_mean: float | None
    cut: float
    ties_at_cut: int
    ties_kept: int
    passed_over: dict[str, int] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)
    num_unlike_ranking: int | None = None
    groups: dict[str, dict[str, int]] = field(default_factory=dict)
    rank_by: str = "golden_score"
    pool_mean: float | None = None
    signal: Floats | None = None
    num_tokens: int | None = None
    num_missing: int = 0

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def ranked(self) -> RankedValue:
        """Names and unit of the value that the rows are ranked by."""
        return ranked_value(self.rank_by)

    @property
    def value(self) -> Floats:
        """Value that each candidate kept is ranked by, `(k,)`."""
        if self.signal is not None:
            return self.signal
        values: Floats = getattr(self, self.ranked.name)
        return values

    @property
    def value_error(self) -> Floats:
        """Standard error of each value, `(k,)`; NaN where it is not known."""
        errors: Floats = getattr(self, self.ranked.error) if self.signal is None else np.full(len(self), np.nan)
        return errors

    def describe(self) -> str:
        """Return the selection in one line."""
        rule = written_rule(self.rule)
        if self.num_tokens is not None:
            rule += f": {self.num_tokens:,} tokens"
        ties = counted(self.ties_at_cut, "candidate ties", "candidates tie")
        what, how = "this", f"by {RANKED_VALUES[self.ranked.tie_breaker].words}, then index"
        if np.isnan(self.golden_score).all():  # no pair was scored
            how = "by index"
        if self.spread:
            what, how = "coverage", "by coverage"
        parts = [
            f"golden set: {len(self):,} of {counted(self.num_candidates, 'candidate')} ({rule}), "
            f"{self._describe_values()}",
            f"{ties} at the cut, {self.ties_kept:,} kept ({how})",
        ]
        for reason, count in self.passed_over.items():
            parts.append(f"passed over {count:,} ({reason})")
        if self.num_missing:
            parts.append(f"{counted(self.num_missing, 'row is', 'rows are')} missing, because no others are left")
        if self.num_unlike_ranking == 0:
            parts.append(f"{what} changed nothing: they are the rows of the ranking")
        elif self.num_unlike_ranking is not None:
            parts.append(f"{counted(self.num_unlike_ranking, 'row')} of the plain ranking left out")
        if self.spread:
            parts.append(self._describe_spread())
        return "; ".join(parts)

    def describe_missing(self) -> str:
        """Say how many rows the rule asks for and why they are not there; for a golden set with `num_missing`."""
        return (
            f"The golden set has {counted(len(self), 'row')}, not {len(self) + self.num_missing:,}: all other rows "
            f"were passed over ({tally(self.passed_over)})."
        )

    def _describe_values(self) -> str:
        """Write the best and the last value with its standard error."""
        ranked, error = self.ranked, self.value_error[-1]
        known_error = "unknown" if np.isnan(error) else ranked.write(error)
        text = f"{ranked.words} {ranked.write(self.value[0])} to {ranked.write(self.cut)}{ranked.unit}"
        if self.signal is not None:
            return text
        return f"{text} (standard error at the cut {known_error})"

    def _describe_spread(self) -> str:
        """Write each figure of the spread beside that of the ranking."""
        figures = []
        for name, own in self.spread.items():
            if not name.startswith("ranking_"):
                ranking = self.spread[f"ranking_{name}"]
                figures.append(f"{name.replace('_', ' ')} {own:.3f} (ranking {ranking:.3f})")
        return ", ".join(figures)

    def summary(self) -> dict[str, float]:
        """Return the numbers worth logging, by name."""
        numbers: dict[str, float] = {
            "golden_set_size": len(self),
            "num_candidates": self.num_candidates,
            "num_dropped": self.num_rows - self.num_candidates,
        }
        if self.num_tokens is not None:
            numbers["golden_set_tokens"] = self.num_tokens
        if self.pool_golden_score_mean is not None:
            numbers["pool_golden_score_mean"] = self.pool_golden_score_mean
        if self.pool_mean is not None:
            numbers[f"pool_{self.rank_by}_mean"] = self.pool_mean
        numbers["golden_score_mean"] = float(self.golden_score.mean())
        if self.rank_by == "gain":
            numbers["gain_mean"] = float(self.gain.mean())
        numbers |= {
            f"{self.rank_by}_cut": self.cut,
            "mean_gain": float(self.mean_gain.mean()),
            "ties_at_cut": self.ties_at_cut,
            "ties_kept": self.ties_kept,
        }
        for reason, count in self.passed_over.items():
            numbers[f"passed_over_{reason}"] = count
        if self.num_missing:
            numbers["num_missing"] = self.num_missing
        numbers |= self.spread
        if self.num_unlike_ranking is not None:
            numbers["num_unlike_ranking"] = self.num_unlike_ranking
        return {name: number for name, number in numbers.items() if not np.isnan(number)}


def select_golden_set(
    scores: GoldenScores,
    rule: tuple[str, float],
    num_candidates: int | None = None,
    diversity: Diversity | None = None,
    rank_by: str = "golden_score",
    passes: Bools | None = None,
    total_tokens: Floats | None = None,
) -> GoldenSet:
    """Keep the best candidates by one rule.

    Args:
        scores: scores of the whole pool, `(n,)`; NaN for rows that were dropped, or eliminated by a race. For a
            signal, `signals` of them has it.
        rule: name and value of the rule. `("top_fraction", f)` keeps `max(1, round(f * candidates))` rows,
            `("top_k", k)` keeps exactly k, `("threshold", t)` keeps values strictly above t (below it, where the
            lowest come first), `("max_tokens", b)` the best rows until the next one would pass b tokens.
        num_candidates: number of rows that have a score or were eliminated; None if none was eliminated.
        diversity: further criteria of the choice; None for a ranking.
        rank_by: value to rank by: `golden_score`, `gain` or `mean_gain`, or a signal.
        passes: whether each row may be chosen, `(n,)`; None if all may. `num_candidates` counts rows that may, and
            what the golden set says of all candidates is said of these.
        total_tokens: tokens of each row, `(n,)`, prompt and completion; read for `max_tokens` alone.

    Returns:
        The golden set, best first; smaller than the rule says if too many rows are passed over (`num_missing`).

    Raises:
        ValueError: if there is no such rule or value to rank by, if k is larger than the number of candidates with a
            score, if no candidate is above the threshold, if the best row passes the budget, or if no candidate has a
            score.

    Example:
        >>> import numpy as np
        >>> from nuggets_trainer.golden.scores import golden_scores
        >>> scores = golden_scores(np.zeros(2), np.array([[-1.0, 0.5], [1.0, 1.0], [1.0, 2.0], [-1.0, -1.0]]))
        >>> golden = select_golden_set(scores, ("top_k", 1))
        >>> golden.indices.tolist(), golden.cut, golden.ties_at_cut, golden.ties_kept
        ([2], 1.0, 2, 1)
    """
    check_rule(rule)
    ranked = ranked_value(rank_by)
    values = ranked.of(scores)
    order, passed_over = _rank_those_that_pass(scores, rank_by, passes)
    num_scored = len(order)
    if num_candidates is None:
        num_candidates = num_scored
    pool_mean = pool_golden_score_mean = None
    if num_candidates == num_scored:
        pool_mean, pool_golden_score_mean = _mean(values[order]), _mean(scores.golden_score[order])
    tokens = None
    if rule[0] == "max_tokens" and total_tokens is not None:
        tokens = total_tokens[order]
    k = num_kept(values[order], len(values), num_candidates, rule, ranked, tokens)
    if rule[0] == "threshold":
        order = order[:k]  # the place of a near-duplicate is not filled from below the threshold
    chosen, num_unlike_ranking, num_missing = Choice(np.arange(k)), None, 0
    if diversity is not None:
        chosen = choose_diverse(values, order, k, diversity, rank_by, tokens, rule[1])
        num_unlike_ranking = k - int((chosen.places < k).sum())
        if rule[0] in ("top_k", "top_fraction"):  # the other rules do not ask for a number of rows
            num_missing = k - len(chosen.places)
    kept = order[chosen.places]
    cut = float(values[kept[-1]])
    return GoldenSet(
        indices=kept,
        **{name: getattr(scores, name)[kept] for name in itertools.chain(*VALUES)},
        rule=rule,
        num_rows=len(values),
        num_candidates=num_candidates,
        pool_golden_score_mean=pool_golden_score_mean,
        cut=cut,
        ties_at_cut=int((values[order] == cut).sum()),
        ties_kept=int((values[kept] == cut).sum()),
        passed_over=passed_over | chosen.passed_over,
        spread=chosen.spread,
        num_unlike_ranking=num_unlike_ranking,
        groups=chosen.groups,
        rank_by=rank_by,
        pool_mean=pool_mean,
        signal=values[kept] if ranked.is_signal else None,
        num_tokens=None if tokens is None else int(tokens[chosen.places].sum()),
        num_missing=num_missing,
    )


def _rank_those_that_pass(scores: GoldenScores, rank_by: str, passes: Bools | None) -> tuple[Ints, dict[str, int]]:
    """Rank the rows that may be chosen, best first, and count the others by the reason to leave them out."""
    order = rank_candidates(scores, rank_by)
    if passes is None:
        return order, {}
    return order[passes[order]], {FAILS_REQUIRE: int((~passes[order]).sum())}


def _mean(values: Floats) -> float | None:
    """Return the mean; None if there are no values, or if a race left some of them out."""
    mean = float(values.mean()) if len(values) else np.nan
    return None if np.isnan(mean) else mean
