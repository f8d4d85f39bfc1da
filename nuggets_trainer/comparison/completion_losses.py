"""How likely the model finds each row's completion, behind its prompt and without it. Knows no golden score.

Both are over the same tokens: those that the template scores of a row that stands alone, the mark at the end of a turn
included. Without the prompt they stand behind BOS; where the tokenizer has none, their first one has no context then
and is left out of both. What is computed is in the score store of the model, under a name in place of a candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import UnusableRowError
from nuggets_trainer.pipeline.request import ScoringRequest
from nuggets_trainer.prompts.segment import Segment, scored_at
from nuggets_trainer.prompts.templates import Template
from nuggets_trainer.scoring.session import ScoringSession, open_session
from nuggets_trainer.store.score_store import ZERO_SHOT

WITHOUT_PROMPT, BUT_THE_FIRST = "completion without its prompt", "completion but for its first token"
BLOCK_ROWS = 256  # scored between two parts of the store

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class CompletionLosses:
    """Mean losses of `n` completions, nats per token; NaN where a row cannot be scored.

    Attributes:
        with_prompt: behind the prompt, `(n,)`.
        without_prompt: the same tokens behind BOS alone, `(n,)`.
        num_tokens: tokens of the completion, `(n,)`; 0 where a row cannot be rendered.
        share_computed: share of the losses that this call computed; the others came from the store.
    """

    with_prompt: Floats
    without_prompt: Floats
    num_tokens: npt.NDArray[np.int64]
    share_computed: float

    @property
    def ifd(self) -> Floats:
        """Instruction-following difficulty, loss with prompt / loss without, `(n,)` (Cherry LLM, arXiv 2308.12032).

        Above 1 the prompt makes its own completion less likely; such rows are left out of a selection by it.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.without_prompt > 0, self.with_prompt / self.without_prompt, np.nan)


def completion_losses(model: Any, request: ScoringRequest) -> CompletionLosses:
    """Compute what the store does not hold yet; all ranks must call it, and get the same.

    Args:
        model: model that scores, as in `score_pool`.
        request: pool of n rows, template, token budget and store.
    """
    pool, template, tokenizer = request.pool, request.template, request.tokenizer
    has_bos = tokenizer.bos_token_id is not None
    names = [ZERO_SHOT if has_bos else BUT_THE_FIRST, WITHOUT_PROMPT]
    with open_session(
        *(model, tokenizer, template, pool, request.config, request.score_dir),
        *(request.autocast_dtype, request.adapter),
    ) as session:
        segments = {i: s for i, s in rendered(template, pool).items() if _fits(s, session.max_length, has_bos)}
        keys = [session.keys[i] for i in segments]
        num_scored = _score_missing(
            session, names, {session.keys[i]: _pair(s, tokenizer.bos_token_id) for i, s in segments.items()}
        )
        log_probs, known = session.ranks.on_main(lambda: session.store.read(names, keys))
    assert known.all(), (int((~known).sum()), "completions that other ranks scored are not in the store")
    losses = np.full((2, len(pool)), np.nan)
    losses[:, list(segments)] = -log_probs.astype(np.float64)
    share = num_scored / max(1, 2 * len(set(keys)))
    return CompletionLosses(losses[0], losses[1], completion_lengths(template, pool), share)


def completion_lengths(template: Template, pool: Pool) -> npt.NDArray[np.int64]:
    """Tokens of each row's completion, `(n,)`; 0 where it cannot be rendered."""
    lengths = np.zeros(len(pool), dtype=np.int64)
    for i, segment in rendered(template, pool).items():
        lengths[i] = segment.num_completion_tokens
    return lengths


def rendered(template: Template, pool: Pool) -> dict[int, Segment]:
    """Render each row alone, by pool index; those that cannot be are left out."""
    segments = {}
    for i in range(len(pool)):
        try:
            segments[i] = template.zero_shot(pool[i])
        except UnusableRowError:
            continue
    return segments


def _fits(segment: Segment, max_length: int | None, has_bos: bool) -> bool:
    enough = has_bos or segment.num_completion_tokens > 1
    return enough and (max_length is None or len(segment.ids) <= max_length)


def _pair(segment: Segment, bos: int | None) -> tuple[Segment, Segment]:
    """Return the completion behind its prompt, and alone."""
    if bos is not None:
        return segment, Segment([bos, *segment.targets], 1)
    return scored_at(segment.ids, list(segment.positions)[1:]), Segment(segment.targets, 1)


def _score_missing(session: ScoringSession, names: Sequence[str], pairs: dict[str, tuple[Segment, Segment]]) -> int:
    """Score what is not stored, longest first so that memory runs out at once or never; return how many."""
    by_length = sorted(pairs, key=lambda key: (-len(pairs[key][0].ids), key))

    def find() -> list[tuple[str, int]]:
        known = session.store.read(names, by_length)[1]
        return [(key, row) for place, key in enumerate(by_length) for row in range(2) if not known[row, place]]

    missing = session.ranks.on_main(find)
    if not missing:
        return 0
    if session.engine.path is None:
        sample = [pairs[key][row] for key, row in (*missing[:2], missing[-1])]
        choice = session.ranks.gather_from(lambda: _choose_path(session, sample))
        session.engine.path = choice[0]
    own = session.ranks.share(missing)

    def score() -> list[None]:
        with session.passes.in_step():
            for start in range(0, len(own), BLOCK_ROWS):
                block = own[start : start + BLOCK_ROWS]
                log_probs = session.engine.score([], [pairs[key][row] for key, row in block])
                session.store.write([names[row] or None for _, row in block], [key for key, _ in block], log_probs)
        return []

    session.ranks.gather_from(score)
    return len(missing)


def _choose_path(session: ScoringSession, sample: list[Segment]) -> list[str]:
    with session.passes.in_step():
        return [session.engine.choose_path([([], sample)])]
