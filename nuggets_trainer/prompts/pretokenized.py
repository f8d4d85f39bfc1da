"""The template `tokens`: rows that are tokenized already, which `auto` takes for them. Knows no text and no model."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING

from nuggets_trainer.data.row import Row, UnusableRowError
from nuggets_trainer.prompts.segment import Segment, scored_at

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


class TokensTemplate:
    """Rows that are tokenized already, joined as token ids: the candidate without its EOS, the anchor without its BOS.

    Scored are the anchor's tokens that TRL puts loss on.

    Args:
        tokenizer: tells BOS, EOS and the size of the vocabulary.
    """

    name = "tokens"

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._bos, self._eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        self._vocabulary_size = len(tokenizer)
        _warn_of_joined_ids()

    def describe(self) -> dict[str, str]:
        """Return the name."""
        return {"template": self.name}

    def zero_shot(self, anchor: Row) -> Segment:
        """Return the anchor's own ids."""
        ids, scored = self._tokens(anchor)
        return scored_at(ids, scored)

    def one_shot(self, candidate: Row, anchor: Row) -> Segment:
        """Return the ids of the candidate and, behind them, those of the anchor."""
        shown, _ = self._tokens(candidate)
        shown = shown[:-1] if shown[-1] == self._eos else shown
        ids, scored = self._tokens(anchor)
        num_bos = int(ids[0] == self._bos)
        offset = len(shown) - num_bos
        return scored_at([*shown, *ids[num_bos:]], [position + offset for position in scored])

    def boundary_is_safe(self, boundary: list[int]) -> bool:
        """Return True: candidate and anchor are tokenized apart."""
        return True

    def _tokens(self, row: Row) -> tuple[list[int], tuple[int, ...]]:
        assert row.tokens is not None
        ids, scored = row.tokens
        if not all(0 <= token < self._vocabulary_size for token in ids):
            raise UnusableRowError("token_not_in_vocabulary")
        return list(ids), scored


@functools.cache  # once for all templates of a run
def _warn_of_joined_ids() -> None:
    logger.warning(
        "The rows are tokenized already: candidate and anchor are joined as token ids. A chat template that renders "
        "earlier turns in another way is not followed; give text or messages where that matters."
    )
