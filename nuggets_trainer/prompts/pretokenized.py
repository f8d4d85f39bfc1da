"""The template `tokens`, which `auto` takes for rows that are tokenized already."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nuggets_trainer.data.row import Row, UnusableRowError
from nuggets_trainer.prompts.row_alone import RowAlone, TokenizesApart, opening_of
from nuggets_trainer.prompts.segment import Segment, scored_at

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


class TokensTemplate(TokenizesApart):
    """Join rows that are tokenized already: the candidate's ids without EOS, then the anchor's ids without BOS.

    The scored tokens are the anchor's tokens that TRL puts loss on.

    Args:
        tokenizer: tokenizer that gives BOS, EOS and the size of the vocabulary.
    """

    name = "tokens"

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._bos, self._eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        self._vocabulary_size = len(tokenizer)
        _warn_about_joined_ids()

    def zero_shot(self, anchor: Row) -> Segment:
        """Return the anchor's own ids."""
        ids, scored = self._tokens(anchor)
        return scored_at(ids, scored)

    def one_shot(self, candidate: Row, anchor: Row) -> Segment:
        """Return the ids of the candidate, and behind them those of the anchor."""
        return self.few_shot([candidate], anchor)

    def few_shot(self, examples: Sequence[Row], row: Row) -> Segment:
        """Return the ids of each example, and behind them those of the row."""
        shown: list[int] = []
        for example in examples:
            ids, _ = self._tokens(example)
            if ids[-1] == self._eos:
                ids = ids[:-1]
            shown += ids[self._num_bos(ids) :] if shown else ids
        ids, scored = self._tokens(row)
        num_bos = self._num_bos(ids)
        offset = len(shown) - num_bos
        return scored_at([*shown, *ids[num_bos:]], [position + offset for position in scored])

    def row_alone(self, row: Row) -> RowAlone:
        """Return the row's own ids; BOS opens its completion, if the row begins with it."""
        segment = self.zero_shot(row)
        return RowAlone(segment, opening_of(segment.ids, self._bos, []))

    def _num_bos(self, ids: list[int]) -> int:
        return int(ids[:1] == [self._bos])

    def _tokens(self, row: Row) -> tuple[list[int], tuple[int, ...]]:
        assert row.tokens is not None
        ids, scored = row.tokens
        if not all(0 <= token < self._vocabulary_size for token in ids):
            raise UnusableRowError("token_not_in_vocabulary")
        return list(ids), scored


@functools.cache  # a run builds several templates; one warning is enough
def _warn_about_joined_ids() -> None:
    logger.warning(
        "The rows are tokenized already, so candidate and anchor are joined as token ids. This is not what a chat "
        "template gives that renders earlier turns differently. Give text or messages if that matters."
    )
