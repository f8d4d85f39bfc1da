"""What all templates share: text -> token ids, and the reasons for which a rendering cannot be used."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nuggets_trainer.data.row import UnusableRowError
from nuggets_trainer.prompts.segment import Segment

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokenize text without special tokens; raise `UnusableRowError` where the tokenizer cannot."""
    if not text:
        return []
    with dropping_what_cannot_be_tokenized():
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def without_eos(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """Return ids without an EOS at their end: it would tell the model that nothing belongs to what follows."""
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def checked(segment: Segment) -> Segment:
    """Return a segment that has something to score and a context; else raise `UnusableRowError`."""
    if segment.num_completion_tokens <= 0:
        raise UnusableRowError("empty_completion")
    if segment.start == 0:
        raise UnusableRowError("empty_prompt")
    return segment


@contextlib.contextmanager
def dropping_what_cannot_be_tokenized() -> Iterator[None]:
    """Turn any error of tokenizer or chat template into the reason `not_tokenizable`."""
    try:
        yield
    except Exception as error:  # chat templates raise what they like, `tokenizers` bare `Exception`
        raise UnusableRowError("not_tokenizable") from error
