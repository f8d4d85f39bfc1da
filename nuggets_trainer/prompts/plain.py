"""The template `plain`: text, with candidate and anchor joined by a blank line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from nuggets_trainer.data.messages import calls_of
from nuggets_trainer.data.row import SEPARATOR, Message, Row, UnusableRowError, content_text
from nuggets_trainer.prompts.row_alone import RowAlone, TokenizesApart
from nuggets_trainer.prompts.segment import Segment
from nuggets_trainer.prompts.shown import NOT_SHOWN
from nuggets_trainer.prompts.tokenize import RecentRows, TextEncoder, checked, without_eos

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PlainTemplate(TokenizesApart):
    r"""Text whose pieces are tokenized apart; candidate and anchor are joined by a blank line.

    `BOS candidate-prompt candidate-completion "\n\n" anchor-prompt anchor-completion EOS`: one BOS and one EOS, in
    zero-shot and one-shot prompts alike. A tokenizer without BOS, such as Qwen's, puts none. The completion follows
    the prompt directly in TRL's text columns, and after a blank line in Alpaca columns; the contents of messages are
    joined by blank lines. No EOS stands between candidate and anchor, not even one that ends the row's own text: it
    tells a base model that the document is over.

    In a row of text alone all tokens are scored. Without BOS the first one is not, because it has no context in the
    zero-shot prompt.

    Raises:
        ValueError: if the tokenizer has no EOS token.
    """

    name = "plain"

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.eos_token_id is None:
            raise ValueError(
                "`template='plain'` ends completions with the EOS token, but this tokenizer has none. Set "
                "`eos_token` (SFTConfig, or `tokenizer.eos_token`)."
            )
        self._tokenizer = tokenizer
        self._bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        self._text = TextEncoder(tokenizer)
        self._separator = self._text.encode(SEPARATOR)
        self._recent: RecentRows[tuple[list[int], list[int]]] = RecentRows()

    def tokenize_ahead(self, rows: Iterable[Row]) -> None:
        """Tokenize the texts of rows that are rendered next."""
        texts: list[str] = []
        for row in rows:
            for part in (row.prompt, row.completion):
                texts += [part] if isinstance(part, str) else map(content_text, part)
        self._text.tokenize_ahead(texts)

    def zero_shot(self, anchor: Row) -> Segment:
        """Return BOS, prompt, completion, EOS."""
        prompt, completion = self._recent.of(anchor, self._pieces)
        return self._segment([*self._bos, *prompt], completion, anchor)

    def one_shot(self, candidate: Row, anchor: Row) -> Segment:
        """Return BOS, candidate, blank line, prompt, completion, EOS."""
        return self.few_shot([candidate], anchor)

    def few_shot(self, examples: Sequence[Row], row: Row) -> Segment:
        """Return BOS, each example and a blank line, prompt, completion, EOS."""
        context = list(self._bos)
        for example in examples:
            shown_prompt, shown_completion = self._recent.of(example, self._pieces)
            shown_completion = without_eos(self._tokenizer, shown_completion)
            if not shown_completion:
                raise UnusableRowError("empty_completion")
            context += [*shown_prompt, *shown_completion, *self._separator]
        prompt, completion = self._recent.of(row, self._pieces)
        return self._segment([*context, *prompt], completion, row)

    def row_alone(self, row: Row) -> RowAlone:
        """Return the row as in `zero_shot`; BOS opens its completion."""
        return RowAlone(self.zero_shot(row), self._bos)

    def _segment(self, context: list[int], completion: list[int], anchor: Row) -> Segment:
        """Put the anchor's completion, closed by one EOS, behind its context and score it."""
        start = len(context)
        if anchor.prompt == "" and not self._bos:
            start += 1  # nothing stands before this token in the zero-shot prompt; both shots score the same tokens
        ids = [*context, *completion]
        if completion[-1] != self._tokenizer.eos_token_id:
            ids.append(self._tokenizer.eos_token_id)
        return checked(Segment(ids, start))

    def _pieces(self, row: Row) -> tuple[list[int], list[int]]:
        """Tokenize prompt and completion; what separates the two belongs to the prompt."""
        separator = row_separator(row)
        between = self._separator if separator == SEPARATOR else self._text.encode(separator)
        completion = self._encode_part(row.completion)
        if not completion:
            raise UnusableRowError("empty_completion")
        if _has_calls(row.prompt) or _has_calls(row.completion):
            raise UnusableRowError(NOT_SHOWN)
        return self._encode_part(row.prompt) + between, completion

    def _encode_part(self, part: str | list[Message]) -> list[int]:
        if isinstance(part, str):
            return self._text.encode(part)
        ids = self._text.encode(content_text(part[0]))
        for message in part[1:]:
            ids += self._separator + self._text.encode(content_text(message))
        return ids


def row_separator(row: Row) -> str:
    """Return the text that stands between a row's prompt and completion."""
    return SEPARATOR if row.is_conversational else row.separator


def _has_calls(part: str | list[Message]) -> bool:
    return not isinstance(part, str) and any(map(calls_of, part))
