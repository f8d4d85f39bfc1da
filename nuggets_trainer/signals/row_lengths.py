"""How many tokens each row has as training reads it, the whole row and its completion: no model, no anchors."""

from __future__ import annotations

from collections.abc import Mapping

from nuggets_trainer.config.diversity_options import COMPLETION_TOKENS
from nuggets_trainer.config.requirement import TOTAL_TOKENS
from nuggets_trainer.data.row import UnusableRowError
from nuggets_trainer.prompts.segment import CandidatePrompt
from nuggets_trainer.scoring.rendering import Candidates, Rendered
from nuggets_trainer.scoring.session import ScoringSession
from nuggets_trainer.signals.gathered import gather_column
from nuggets_trainer.signals.row_signals import Signals, render_signal_row


def total_tokens(session: ScoringSession, rows: Candidates) -> Signals:
    """Count the tokens of each candidate alone, under the template and the tokenizer of the session.

    Each rank counts the candidates that it has rendered, or a share of them; all ranks must call it. A row that cannot
    be rendered alone counts with the tokens that it has before an anchor. What training cuts off at `max_length` is
    counted too.

    Args:
        session: open session of the pool.
        rows: anchors and candidates.

    Returns:
        `total_tokens`, `(n,)` over the pool's rows, NaN for rows that are no candidates; empty on all ranks but the
        main one.
    """
    candidates = set(rows.candidates)
    prompts: Mapping[int, CandidatePrompt] = {}
    own = list(session.ranks.share(rows.candidates))
    if isinstance(rows, Rendered):
        prompts = rows.prompts
        own = [i for i in prompts if i in candidates]

    def count_own() -> list[tuple[int, float]]:
        counts: list[tuple[int, float]] = []
        for i in own:
            try:
                number = session.template.num_tokens(session.pool[i])
            except UnusableRowError:
                number = prompts[i].row_tokens()
            counts.append((i, number))
        return counts

    column = gather_column(session, count_own)
    return {} if column is None else {TOTAL_TOKENS: column}


def completion_tokens(session: ScoringSession, rows: Candidates) -> Signals:
    """Count the scored tokens of each candidate's completion, as `row_signals` does, without a forward pass.

    Each rank counts a share of the candidates; all ranks must call it.

    Args:
        session: open session of the pool.
        rows: anchors and candidates.

    Returns:
        `num_tokens`, `(n,)` over the pool's rows, NaN for a row that cannot be rendered alone and for rows that are no
        candidates; empty on all ranks but the main one.
    """

    def count_own() -> list[tuple[int, float]]:
        counts: list[tuple[int, float]] = []
        for i in session.ranks.share(rows.candidates):
            try:
                counts.append((i, render_signal_row(session, i).segment.num_completion_tokens))
            except UnusableRowError:
                continue
        return counts

    column = gather_column(session, count_own)
    return {} if column is None else {COMPLETION_TOKENS: column}
