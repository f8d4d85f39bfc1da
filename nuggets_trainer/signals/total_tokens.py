"""How many tokens each row has as training reads it, prompt and completion together: no model, no anchors."""

from __future__ import annotations

import numpy as np

from nuggets_trainer.config.requirement import TOTAL_TOKENS
from nuggets_trainer.data.row import UnusableRowError
from nuggets_trainer.scoring.rendering import Rendered
from nuggets_trainer.scoring.session import ScoringSession
from nuggets_trainer.signals.row_signals import Signals


def total_tokens(session: ScoringSession, rendered: Rendered) -> Signals:
    """Count the tokens of each candidate alone, under the template and the tokenizer of the session.

    Each rank counts the candidates that it has rendered; all ranks must call it. A row that cannot be rendered alone
    counts with the tokens that it has before an anchor. What training cuts off at its `max_length` is counted too.

    Args:
        session: open session of the pool.
        rendered: anchors and candidates.

    Returns:
        `total_tokens`, `(n,)` over the pool's rows, NaN for rows that are no candidates; empty on all ranks but the
        main one.
    """
    candidates = set(rendered.candidates)

    def count_own() -> list[tuple[int, int]]:
        counts = []
        for i, prompt in rendered.prompts.items():
            if i not in candidates:
                continue
            try:
                number = session.template.num_tokens(session.pool[i])
            except UnusableRowError:
                number = prompt.row_tokens()
            counts.append((i, number))
        return counts

    found = session.ranks.gather_from(count_own)
    if not session.ranks.is_main:
        return {}
    column = np.full(len(session.pool), np.nan)
    for i, number in found:
        column[i] = number
    return {TOTAL_TOKENS: column}
