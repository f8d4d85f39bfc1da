"""What all templates share: text -> token ids, and the reasons why a rendering cannot be used."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from nuggets_trainer.data.row import Row, UnusableRowError
from nuggets_trainer.prompts.segment import Segment

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")

MOST_RECENT = 2000  # rows; more than a job has anchors


class RecentRows(Generic[T]):
    """What was found for the rows that were used last: each candidate meets the same anchors, one after another.

    Rows are told apart as objects, because hashing their texts takes as long as a part of the rendering.
    """

    def __init__(self) -> None:
        self._found: OrderedDict[int, tuple[Row, T]] = OrderedDict()  # the row is kept, so that no other has its id

    def of(self, row: Row, find: Callable[[Row], T]) -> T:
        """Return what `find` returns for the row, which must be the same each time."""
        kept = self._found.get(id(row))
        if kept is not None and kept[0] is row:  # ids are others after pickling
            self._found.move_to_end(id(row))
            return kept[1]
        found = find(row)
        self._found[id(row)] = row, found
        if len(self._found) > MOST_RECENT:
            self._found.popitem(last=False)
        return found


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokenize text without special tokens.

    Raises:
        UnusableRowError: if the tokenizer fails on the text.
    """
    if not text:
        return []
    with dropping_what_cannot_be_tokenized():
        return token_ids(tokenizer, text, add_special_tokens=False)


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str, add_special_tokens: bool = True) -> list[int]:
    """Tokenize text of any length; rows that are too long are dropped and counted, so that no warning is needed."""
    return list(tokenizer(text=text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"])


def without_eos(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """Remove an EOS at the end, which would tell the model that what follows belongs to another document."""
    if ids and ids[-1] == tokenizer.eos_token_id:
        return ids[:-1]
    return ids


def checked(segment: Segment) -> Segment:
    """Return the segment if it scores at least one token and the first of these has a context.

    Raises:
        UnusableRowError: if it does not.
    """
    if segment.num_completion_tokens <= 0:
        raise UnusableRowError("empty_completion")
    if segment.start == 0:
        raise UnusableRowError("empty_prompt")
    return segment


@contextlib.contextmanager
def dropping_what_cannot_be_tokenized() -> Iterator[None]:
    """Turn any error of a tokenizer or chat template into the reason `not_tokenizable`."""
    try:
        yield
    except Exception as error:  # chat templates raise what they like, and `tokenizers` a bare `Exception`
        raise UnusableRowError("not_tokenizable") from error
