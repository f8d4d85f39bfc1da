"""Stages of a run: render rows that a selection can be made of, compute their signals, run the schedule."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.config.requirement import TOTAL_TOKENS
from nuggets_trainer.golden.limits import FAILS_REQUIRE
from nuggets_trainer.golden.ranking import most_within
from nuggets_trainer.pipeline.row_filter import rows_that_meet
from nuggets_trainer.pipeline.rows import check_selectable
from nuggets_trainer.prompts.shared_prefix import AnchorSet
from nuggets_trainer.prompts.shown import NOT_SHOWN, hint_on
from nuggets_trainer.scoring.exact import ExactRun
from nuggets_trainer.scoring.race_run import RaceRun
from nuggets_trainer.scoring.rendering import Candidates, Rendered, render_pool
from nuggets_trainer.scoring.session import ScoringSession
from nuggets_trainer.scoring.watch import Watch
from nuggets_trainer.signals.examples import ExampleContexts
from nuggets_trainer.signals.gathered import gather_column
from nuggets_trainer.signals.in_context import in_context_losses
from nuggets_trainer.signals.repetition import repetitions
from nuggets_trainer.signals.row_lengths import completion_tokens, total_tokens
from nuggets_trainer.signals.row_signals import Signals, row_signals
from nuggets_trainer.store.results import PoolScores
from nuggets_trainer.wording import counted

logger = logging.getLogger(__name__)

LONG_ANCHOR = 0.25  # share of the context from which an anchor is to blame for rows that are too long


def render_selectable(session: ScoringSession, anchor_set: AnchorSet, rows: Sequence[int]) -> Rendered:
    """Render rows of the pool, and refuse a selection rule that what is left cannot meet; on all ranks.

    Args:
        session: open session of the pool.
        anchor_set: the anchors.
        rows: pool indices of the rows to score.

    Raises:
        ValueError: if no row is usable, or fewer than `top_k`.
    """
    rendered = render_pool(session, anchor_set, rows)
    counts = Counter(rendered.dropped.values())
    too_long = ""
    if counts["too_long"]:
        too_long = _too_long_hint(session, anchor_set)
    not_shown = hint_on(counts)
    check_selectable(session.config, len(session.pool), rendered.dropped, too_long + not_shown)
    if session.ranks.is_main:
        _warn_of_dropped(counts["too_long"], "too long", too_long)
        _warn_of_dropped(counts[NOT_SHOWN], "not shown whole", not_shown)
    return rendered


def _warn_of_dropped(number: int, why: str, hint: str) -> None:
    if number:
        verb = "is" if number == 1 else "are"
        logger.warning("%s %s %s.%s", counted(number, "candidate"), verb, why, hint)


def _too_long_hint(session: ScoringSession, anchor_set: AnchorSet) -> str:
    sizes = [len(segment.ids) for segment in anchor_set.segments]
    longest = max(range(len(sizes)), key=lambda j: sizes[j])
    hint = (
        f" A candidate must fit the model's context ({session.max_length} tokens) together with every anchor; the "
        f"longest, anchor {anchor_set.usable[longest]}, has {sizes[longest]}."
    )
    assert session.max_length is not None  # without a limit nothing is too long
    if sizes[longest] >= LONG_ANCHOR * session.max_length:
        return f"{hint} Shorten or drop long anchors."
    return f"{hint} Shorten the rows, or score with a model of a longer context."


def signals_of_rows(session: ScoringSession, rows: Candidates) -> Signals:
    """Compute the signals of all candidates: those of the text, and those that take forward passes if wanted.

    All ranks must call it.

    Returns:
        Each signal by name, `(n,)`, see `row_signals`, `in_context_losses`, `repetitions`, `total_tokens` and
        `completion_tokens`; empty on all ranks but the main one.

    Raises:
        ValueError: if `ica` is wanted and no anchor fits half of the model's context, or if the token budget has no
            room for the longest row.
    """
    signals = repetitions_of_rows(session, rows.candidates)
    if session.config.wants_total_tokens:
        signals |= total_tokens(session, rows)
        rows_in_budget(session, rows, signals)  # refuses a budget that is too small, before the first forward pass
    if session.config.wants_row_signals:
        signals |= signals_of_the_model(session, rows)
    elif session.config.groups_by_length:
        signals |= completion_tokens(session, rows)
    return signals


def repetitions_of_rows(session: ScoringSession, candidates: Sequence[int]) -> Signals:
    """Compute `repetition`, each rank for its share of the candidates; all ranks must call it.

    A row of 300 words takes 0.13 ms, one of 1,500 Chinese characters 0.6 ms: on one rank of a large pool, the others
    would wait until their collective times out.
    """

    def own_shares() -> list[tuple[int, float]]:
        own = session.ranks.share(candidates)
        return list(zip(own, repetitions(session.pool, own)[own].tolist(), strict=True))

    column = gather_column(session, own_shares)
    return {} if column is None else {"repetition": column}


def signals_of_the_model(session: ScoringSession, rows: Candidates) -> Signals:
    """Compute the signals that take forward passes; all ranks must call it."""
    contexts = None
    if session.config.wants_ica:
        contexts = ExampleContexts(session, rows.anchor_set)
    signals: Signals = row_signals(session, rows.anchor_set, rows.candidates) or {}
    if contexts is not None:
        in_context = in_context_losses(session, contexts, rows.candidates)
        if in_context is not None:
            signals["ica"] = signals["loss"] - in_context
    return signals


def leave_out_failing(session: ScoringSession, rendered: Rendered, signals: Signals) -> Rendered:
    """Apply a condition on signals before any pair is scored; all ranks must call it.

    A race is run among the rows that meet it: the others need no pairs, and are dropped with the reason
    `fails_require`. The exact schedule scores them all the same.

    Args:
        session: open session of the pool.
        rendered: anchors and candidates.
        signals: signals of the candidates, `(n,)`, on the main process.

    Raises:
        ValueError: if no row meets the condition, or fewer than `top_k`.
    """
    config = session.config
    requirement = config.requirement
    if requirement is None or requirement.needs_scores:
        return rendered

    def find_failing() -> list[int]:
        met = rows_that_meet(requirement, signals)
        return [i for i in rendered.candidates if not met[i]]

    failing = set(session.ranks.on_main(find_failing))
    dropped = rendered.dropped | dict.fromkeys(failing, FAILS_REQUIRE)
    check_selectable(config, len(session.pool), dropped, _hint(requirement.text))
    if config.schedule_in_force == "exact":
        return rendered
    meeting = rendered.only(set(rendered.candidates) - failing)
    return dataclasses.replace(meeting, dropped=dropped)


@dataclass(frozen=True)
class RowsInBudget:
    """How many rows a token budget has room for.

    Attributes:
        max_tokens: the budget.
        num_candidates: number of rows that can be chosen.
        expected: number of rows of average length.
        most: number of rows if the shortest ones were the best; no golden set within the budget has more.
    """

    max_tokens: int
    num_candidates: int
    expected: int
    most: int

    def describe(self, config: NuggetsConfig) -> str:
        """Say how many rows the budget has room for, and what a race does about it."""
        text = f"max_tokens={self.max_tokens:,} has room for about {self.expected:,} of "
        text += f"{counted(self.num_candidates, 'candidate')}, for {self.most:,} at most"
        if config.schedule_in_force != "race":
            return text
        if config.rank_by == "golden_score":
            return f"{text}; the race finds the best {self.most:,}"
        return f"{text}; the race counts those that fit by the gains so far"

    def to_dict(self) -> dict[str, int]:
        """Return the two numbers of rows, for JSON."""
        return {"expected": self.expected, "most": self.most}


def rows_in_budget(
    session: ScoringSession, rows: Candidates, signals: Signals, factor: float = 1.0
) -> RowsInBudget | None:
    """Count the rows that the token budget has room for; on all ranks.

    Rows that fail a condition on these signals do not count. Which rows meet one on scores is not known yet.

    Args:
        session: open session of the pool.
        rows: anchors and candidates.
        signals: signals of the candidates, `(n,)`, on the main process; with `total_tokens`.
        factor: number of times as many rows that the whole pool has.

    Returns:
        The numbers for the whole pool; None without a budget, and if no row can be chosen.

    Raises:
        ValueError: if the budget has no room for the longest row: it could be the best.
    """
    config = session.config
    if config.max_tokens is None:
        return None

    def count() -> RowsInBudget | None:
        assert config.max_tokens is not None
        requirement, candidates = config.requirement, np.array(rows.candidates)
        is_known = requirement is None or signals.keys() >= set(requirement.columns)
        if requirement is not None and is_known:
            candidates = candidates[rows_that_meet(requirement, signals)[candidates]]
        if not len(candidates):
            return None  # the condition is refused where it is applied
        tokens = signals[TOTAL_TOKENS][candidates]
        longest = int(tokens.argmax())
        if tokens[longest] > config.max_tokens and is_known:  # else the longest row may fail
            raise ValueError(
                f"`max_tokens={config.max_tokens:,}` must have room for the longest row, which could be the best: row "
                f"{candidates[longest]:,} has {int(tokens[longest]):,} tokens. Raise it, or leave out long rows: "
                f'`require="total_tokens <= {config.max_tokens}"`.'
            )
        most = round(factor * most_within(tokens, config.max_tokens / factor))
        num_candidates = round(factor * len(tokens))
        expected = min(num_candidates, int(config.max_tokens / tokens.mean()))
        return RowsInBudget(config.max_tokens, num_candidates, max(expected, 1), max(most, 1))

    return session.ranks.on_main(count)


def with_top_k(session: ScoringSession, top_k: int) -> ScoringSession:
    """Return the same session with another rule: this number of rows."""
    request = dataclasses.replace(session.request, config=session.config.with_top_k(top_k))
    return dataclasses.replace(session, request=request)


def num_choosable(config: NuggetsConfig, scores: PoolScores, dropped: Mapping[int, str]) -> int:
    """Count the rows that were not dropped and meet the condition.

    Args:
        config: options of the user.
        scores: scores of the pool.
        dropped: reason of each row that has no score and was not eliminated, by pool index.

    Raises:
        ValueError: if no row is left, or fewer than `top_k`.
    """
    passes, requirement = scores.meets_require, config.requirement
    if passes is None or requirement is None:
        return len(scores) - len(dropped)
    failing = dict.fromkeys(np.flatnonzero(~passes).tolist(), FAILS_REQUIRE)
    left_out = {**failing, **dropped}
    check_selectable(config, len(scores), left_out, _hint(requirement.text))
    return len(scores) - len(left_out)


def _hint(condition: str) -> str:
    return f" The rows must meet `require={condition!r}`."


def prepare_run(
    session: ScoringSession, rendered: Rendered, watch: Watch, total_tokens: npt.NDArray[np.float64] | None = None
) -> ExactRun | RaceRun:
    """Give the run of the schedule that is in force.

    Args:
        session: open session.
        rendered: anchors and candidates.
        watch: counts and times what is scored.
        total_tokens: tokens of each row of the pool, `(n,)`, on the main process, where a race has a token budget.
    """
    if session.config.schedule_in_force == "exact":
        return ExactRun(session, rendered, watch)
    return RaceRun(session, rendered, watch, total_tokens)
