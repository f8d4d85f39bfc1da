"""What all templates share: text -> token ids, and the reasons why a rendering cannot be used."""

from __future__ import annotations

import contextlib
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

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
    """Tokenize text of any length; rows that are too long are dropped and counted, so that no warning is needed.

    A fast tokenizer is asked directly where that gives what `tokenizer(text)` gives: without its masks, and without
    the place of each token in the text, a row takes 0.7 of the time.
    """
    backend = _backend_of(tokenizer)
    if backend is None:
        return list(tokenizer(text=text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"])
    return list(backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids)


class TextEncoder:
    """Tokenizes text without special tokens; texts that will be needed soon can be tokenized together.

    The tokenizer and Python displace each other in the processor's caches: taking turns after every text, the two are
    an eighth slower.

    Args:
        tokenizer: tokenizer of the texts.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._ahead: dict[str, list[int]] = {}

    def tokenize_ahead(self, texts: Iterable[str]) -> None:
        """Tokenize texts together; each is kept until it is asked for, or until the next call."""
        self._ahead = {}
        backend = _backend_of(self._tokenizer)
        different = [text for text in dict.fromkeys(texts) if text]
        if backend is None:
            return
        with contextlib.suppress(Exception):  # of one text: it is told when that text is asked for
            encodings = backend.encode_batch_fast(different, add_special_tokens=False)
            self._ahead = {text: encoding.ids for text, encoding in zip(different, encodings, strict=True)}

    def encode(self, text: str) -> list[int]:
        """Call `encode`, unless the text was tokenized ahead."""
        ids = self._ahead.pop(text, None)
        return encode(self._tokenizer, text) if ids is None else ids


def _backend_of(tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return the tokenizer of the library `tokenizers` that gives the ids that `tokenizer(text)` gives; else None."""
    if not _adds_nothing_to_its_backend(type(tokenizer)):  # type: ignore[arg-type]  # a class is hashable
        return None
    backend = tokenizer.backend_tokenizer
    is_set_as_in_a_call = backend.truncation is None and backend.padding is None
    if is_set_as_in_a_call and backend.encode_special_tokens == tokenizer.split_special_tokens:
        return backend
    return None


@functools.cache
def _adds_nothing_to_its_backend(kind: type[Any]) -> bool:
    """Whether tokenizers of this class call the library `tokenizers` as transformers' own fast ones do."""
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

    if not issubclass(kind, PreTrainedTokenizerFast):
        return False
    encodes_itself = kind._encode_plus is not PreTrainedTokenizerFast._encode_plus
    return kind.__call__ is PreTrainedTokenizerBase.__call__ and not encodes_itself


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
