"""The template `nuggets`: the text of the paper's reference implementation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from nuggets_trainer.data.row import Row, UnusableRowError, joined_text
from nuggets_trainer.prompts.row_alone import RowAlone, TokenizesApart
from nuggets_trainer.prompts.segment import Segment
from nuggets_trainer.prompts.tokenize import RecentRows, TextEncoder, checked, without_eos

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUGGETS_MAX_ANCHOR_TOKENS = 200
RESPONSE = "Response:\n"


class NuggetsTemplate(TokenizesApart):
    r"""The prompt of the reference implementation (github.com/pldlgb/nuggets), to the letter.

    `Instruction:\n...\nInput:\n...\nResponse:\n...`, with BOS before the candidate only and neither a separator nor an
    EOS behind it. The prompt is tokenized alone, and again together with the completion; the scored tokens begin at
    the length of the prompt's ids. Anchors are cut at 200 tokens.

    Raises:
        ValueError: if the tokenizer has no BOS token.
    """

    name = "nuggets"

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.bos_token_id is None:
            raise ValueError(
                "`template='nuggets'` puts the BOS token before the candidate, as the reference does, but this "
                "tokenizer has none. Set `tokenizer.bos_token` or use `template='plain'`."
            )
        self._tokenizer = tokenizer
        self._text = TextEncoder(tokenizer)
        self._shown: RecentRows[list[int]] = RecentRows()
        self._alone: RecentRows[Segment] = RecentRows()

    def tokenize_ahead(self, rows: Iterable[Row]) -> None:
        """Tokenize the texts of candidates that are rendered next."""
        texts = []
        for row in rows:
            with contextlib.suppress(UnusableRowError):
                texts.append(nuggets_prompt(row) + nuggets_completion(row))
        self._text.tokenize_ahead(texts)

    def zero_shot(self, anchor: Row) -> Segment:
        """Return prompt and completion, cut at 200 tokens, without BOS."""
        ids, start = self._uncut(anchor)
        if start >= NUGGETS_MAX_ANCHOR_TOKENS:
            raise UnusableRowError("completion_cut_away")
        return checked(Segment(ids[:NUGGETS_MAX_ANCHOR_TOKENS], start))

    def cuts(self, anchor: Row) -> bool:
        """Whether the anchor is longer than 200 tokens."""
        ids, _ = self._uncut(anchor)
        return len(ids) > NUGGETS_MAX_ANCHOR_TOKENS

    def one_shot(self, candidate: Row, anchor: Row) -> Segment:
        """Return BOS, the whole candidate, and the anchor as in `zero_shot`."""
        prefix = [self._tokenizer.bos_token_id, *self._shown.of(candidate, self._encode_shown)]
        return self._alone.of(anchor, self.zero_shot).behind(prefix)

    def _encode_shown(self, candidate: Row) -> list[int]:
        ids = self._text.encode(nuggets_prompt(candidate) + nuggets_completion(candidate))
        return without_eos(self._tokenizer, ids)

    def few_shot(self, examples: Sequence[Row], row: Row) -> Segment:
        """Return BOS, each example, and the whole row, which is not cut at 200 tokens."""
        prefix = [self._tokenizer.bos_token_id]
        for example in examples:
            prefix += self._shown.of(example, self._encode_shown)
        ids, start = self._uncut(row)
        return checked(Segment(ids, start)).behind(prefix)

    def row_alone(self, row: Row) -> RowAlone:
        """Return BOS and the whole row, as candidates are shown; BOS and the word before a response open it."""
        ids, start = self._uncut(row)
        bos = [self._tokenizer.bos_token_id]
        return RowAlone(checked(Segment(ids, start)).behind(bos), [*bos, *self._text.encode(RESPONSE)])

    def _uncut(self, row: Row) -> tuple[list[int], int]:
        """Return the ids of prompt and completion, and the number of ids of the prompt alone."""
        prompt = nuggets_prompt(row)
        ids = self._text.encode(prompt + nuggets_completion(row))
        return ids, len(self._text.encode(prompt))


def nuggets_prompt(row: Row) -> str:
    """Write the prompt of a row up to `Response:`."""
    instruction, extra = row.alpaca or (joined_text(row.prompt).strip(), "")
    text = f"Instruction:\n{instruction}\n"
    if extra:
        text += f"Input:\n{extra}\n"
    return text + RESPONSE


def nuggets_completion(row: Row) -> str:
    """Write the completion of a row.

    Raises:
        UnusableRowError: if it has no text, but a tool call alone.
    """
    completion = joined_text(row.completion).strip()
    if not completion:
        raise UnusableRowError("empty_completion")
    return completion
