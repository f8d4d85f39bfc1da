"""How likely the model finds each row's completion, with its prompt and without it.

Both losses are over the same tokens: those that the template scores in a row that stands alone, including the mark at
the end of a turn. Without the prompt, BOS stands before them. If the tokenizer has no BOS, the first token would have
no context, so both losses leave it out. The results are in the model's score store, with a fixed name in place of the
candidate.

The columns of scores.parquet (`signals.row_signals`) have the beginning of an answer before the completion as well,
which tells more under a chat template (docs/log/signals.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import UnusableRowError
from nuggets_trainer.prompts.segment import Segment, scored_at, stored_key
from nuggets_trainer.prompts.templates import Template
from nuggets_trainer.scoring.session import ScoringRequest, ScoringSession, open_session
from nuggets_trainer.store.score_store import ZERO_SHOT

# Names in the score store; existing stores have them.
WITHOUT_PROMPT, BUT_THE_FIRST = "completion without its prompt", "completion but for its first token"
BLOCK_ROWS = 256  # completions that are scored before the next part of the store is written

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class CompletionLosses:
    """Mean losses of `n` completions, nats per token; NaN for rows that cannot be scored.

    Attributes:
        with_prompt: losses after the prompt, `(n,)`.
        without_prompt: losses of the same tokens after BOS alone, `(n,)`.
        num_tokens: numbers of completion tokens, `(n,)`; 0 for rows that cannot be rendered.
        share_computed: share of the losses that this call computed; the others came from the store.
    """

    with_prompt: Floats
    without_prompt: Floats
    num_tokens: npt.NDArray[np.int64]
    share_computed: float

    @property
    def ifd(self) -> Floats:
        """Instruction-following difficulty, loss with prompt / loss without, `(n,)` (Cherry LLM, arXiv 2308.12032).

        Above 1 the prompt makes its own completion less likely. A selection by difficulty leaves such rows out.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.without_prompt > 0, self.with_prompt / self.without_prompt, np.nan)


def completion_losses(model: Any, request: ScoringRequest) -> CompletionLosses:
    """Compute the losses that the store does not hold yet; all ranks must call it, and get the same result.

    Args:
        model: model that scores, as in `score_pool`.
        request: request with the pool of n rows, the template, the token budget and the store.
    """
    pool, template, tokenizer = request.pool, request.template, request.tokenizer
    has_bos = tokenizer.bos_token_id is not None
    names = [ZERO_SHOT, WITHOUT_PROMPT]
    if not has_bos:
        names = [BUT_THE_FIRST, WITHOUT_PROMPT]
    with open_session(model, request) as session:
        lengths = np.zeros(len(pool), dtype=np.int64)
        indices, keys = [], []
        pairs: dict[str, tuple[Segment, Segment]] = {}  # by key: equal rows are scored once
        for i, segment in _render(template, pool).items():
            lengths[i] = segment.num_completion_tokens
            if _fits(segment, session.max_length, has_bos):
                indices.append(i)
                key = stored_key(session.keys[i], segment.remarks)
                keys.append(key)
                pairs[key] = _with_and_without_prompt(segment, tokenizer.bos_token_id)
        num_scored = _score_missing(session, names, pairs)
        log_probs, known = session.ranks.on_main(lambda: session.store.read(names, keys))
    assert known.all(), (int((~known).sum()), "completions that other ranks scored are not in the store")
    losses = np.full((2, len(pool)), np.nan)
    losses[:, indices] = -log_probs.astype(np.float64)
    share = num_scored / max(1, 2 * len(pairs))
    return CompletionLosses(losses[0], losses[1], lengths, share)


def _render(template: Template, pool: Pool) -> dict[int, Segment]:
    """Render each row alone, by pool index; unusable rows are left out."""
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


def _with_and_without_prompt(segment: Segment, bos: int | None) -> tuple[Segment, Segment]:
    """Return the completion after its prompt, and alone."""
    if bos is not None:
        return segment, Segment([bos, *segment.targets], 1)
    return scored_at(segment.ids, list(segment.positions)[1:]), Segment(segment.targets, 1)


def _score_missing(session: ScoringSession, names: Sequence[str], pairs: dict[str, tuple[Segment, Segment]]) -> int:
    """Score what is not stored and return how many losses that was.

    The longest completions come first, so that memory runs out at once or never.
    """
    by_length = sorted(pairs, key=lambda key: (-len(pairs[key][0].ids), key))

    def find_missing() -> list[tuple[str, int]]:
        """Return key and place of the name, in the order of scoring."""
        _, known = session.store.read(names, by_length)
        places, rows = np.nonzero(~known.T)
        return [(by_length[place], int(row)) for place, row in zip(places, rows, strict=True)]

    missing = session.ranks.on_main(find_missing)
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
                segments, candidates, anchors = [], [], []
                for key, row in own[start : start + BLOCK_ROWS]:
                    segments.append(pairs[key][row])
                    candidates.append(names[row] or None)
                    anchors.append(key)
                session.store.write(candidates, anchors, session.engine.score([], segments))
        return []

    session.ranks.gather_from(score)
    return len(missing)


def _choose_path(session: ScoringSession, sample: list[Segment]) -> list[str]:
    with session.passes.in_step():
        return [session.engine.choose_path([([], sample)])]
