"""What all templates share: text -> token ids, and the reasons why a rendering cannot be used."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from nuggets_trainer.data.row import Row, UnusableRowError
from nuggets_trainer.prompts.segment import Segment

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")

MOST_RECENT = 2000  # rows; more than a job has anchors
MOST_PIECES = 100_000  # pieces whose ids are kept, about 20 MB
LONGEST_PIECE = 50  # characters; longer pieces, such as lines of dashes, seldom come again

# How byte-level tokenizers cut ASCII text into pieces, by their pre-tokenizer. The white space is written
# out, because `re` counts four control characters as white space that Unicode does not.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?[a-zA-Z]+| ?[0-9]+| ?[^\t-\r a-zA-Z0-9]+|[\t-\r ]+(?![^\t-\r ])|[\t-\r ]+"
_SINGLE_DIGITS = _GPT2.replace(" ?[0-9]+", "[0-9]").replace("(?![^\\t-\\r ])", "(?![^\\t-\\r 0-9])")
_GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\na-zA-Z0-9]?[a-zA-Z]+|[0-9]{1,3}| ?[^\t-\r a-zA-Z0-9]+[\r\n]*|"
    r"[\t-\r ]*[\r\n]+|[\t-\r ]+(?![^\t-\r ])|[\t-\r ]+"
)
_GPT4_IN_UNICODE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
_PATTERNS = {  # by the pattern of the pre-tokenizer
    _GPT4_IN_UNICODE: _GPT4,  # GPT-4, Llama 3
    _GPT4_IN_UNICODE.replace("{1,3}", ""): _GPT4.replace("{1,3}", ""),  # Qwen 2 and 3
}
_MODEL_SETTINGS = (  # of BPE, which decide on the ids of a piece
    "dropout",
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "fuse_unk",
    "byte_fallback",
    "ignore_merges",
)
_PROBE_OF_MODEL = "thequickbrownfoxjumpsoverthelazydogTHE0123456789"
_PROBE = "Don't  STOP'S,\n\n it's 42 o'clock!\t<b> x</b>\r\n  1234567 end\x1c  \v -- ''ll don't'd a1b  2\n "


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

    A byte-level tokenizer gets each word of ASCII texts only once (`_Pieces`). Other texts are tokenized by one call.
    The tokenizer and Python displace each other in the processor's caches: taking turns after every text, the two are
    an eighth slower.

    Args:
        tokenizer: tokenizer of the texts.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._ahead: dict[str, list[int]] = {}
        self._pieces: _Pieces | None = None

    def tokenize_ahead(self, texts: Iterable[str]) -> None:
        """Tokenize texts together; each is kept until it is asked for, or until the next call."""
        self._ahead = {}
        backend = _backend_of(self._tokenizer)
        different = [text for text in dict.fromkeys(texts) if text]
        if backend is None:
            return
        if self._pieces is None or not self._pieces.are_of(backend):
            self._pieces = _Pieces(backend)
        self._ahead, left = self._pieces.encode(different)
        with contextlib.suppress(Exception):  # of one text: it is told when that text is asked for
            encodings = backend.encode_batch_fast(left, add_special_tokens=False)
            self._ahead |= {text: encoding.ids for text, encoding in zip(left, encodings, strict=True)}

    def encode(self, text: str) -> list[int]:
        """Call `encode`, unless the text was tokenized ahead."""
        ids = self._ahead.pop(text, None)
        return encode(self._tokenizer, text) if ids is None else ids


class _Pieces(dict[str, list[int]]):
    """Token ids of the pieces that a byte-level tokenizer cuts texts into, each tokenized once.

    Such a tokenizer first cuts a text by a regular expression, and tokenizes each piece by itself. Looking up the
    pieces of an ASCII text takes a quarter of the time, and gives the same ids. Pieces of a tokenizer that was changed
    since then are not used (`are_of`).

    Args:
        backend: tokenizer of the library `tokenizers`.
    """

    def __init__(self, backend: Any) -> None:
        super().__init__()
        self.backend = backend
        self._state = _state_of(backend)
        pattern = _pattern_of(backend)
        self._cut: Callable[[str], list[str]] | None = None
        if pattern is not None and _cuts_alike(backend, pattern, _PROBE):
            self._cut = re.compile(pattern).findall

    def __reduce__(self) -> Any:
        return type(self), (self.backend,)

    def are_of(self, backend: Any) -> bool:
        """Whether these are the pieces of a tokenizer as it is now; added tokens need no other pieces."""
        return self.backend is backend and self._state == _state_of(backend)

    def __missing__(self, piece: str) -> list[int]:
        ids: list[int] = self.backend.encode(piece, add_special_tokens=False).ids
        if len(piece) <= LONGEST_PIECE:
            self[piece] = ids
        return ids

    def encode(self, texts: Iterable[str]) -> tuple[dict[str, list[int]], list[str]]:
        """Tokenize texts.

        Args:
            texts: different texts.

        Returns:
            Token ids by text, and the texts that the tokenizer itself must cut: those that are not ASCII, those that
            may hold an added token, and those that it fails on.
        """
        if self._cut is None:
            return {}, list(texts)
        if len(self) > MOST_PIECES:
            self.clear()
        added = {token.content for token in self.backend.get_added_tokens_decoder().values()}
        if self.backend.normalizer is not None:  # NFC makes ASCII of three characters
            added |= set(map(self.backend.normalizer.normalize_str, added))
        firsts = {content[:1] for content in added}
        found, left = {}, []
        for text in texts:
            has_first = any(first in text for first in firsts)
            if not text.isascii() or (has_first and any(content in text for content in added)):
                left.append(text)
                continue
            try:
                found[text] = self._ids(text)
            except Exception:  # noqa: BLE001 - a bare one, such as for an unknown token that is not in the vocabulary
                left.append(text)
        return found, left

    def _ids(self, text: str) -> list[int]:
        assert self._cut is not None
        return list(itertools.chain.from_iterable(map(self.__getitem__, self._cut(text))))


def _pattern_of(backend: Any) -> str | None:
    """Return the expression by which a tokenizer cuts ASCII text; None if it is not known, or does more than cut."""
    from tokenizers import models, normalizers

    keeps_ascii = backend.normalizer is None or isinstance(backend.normalizer, normalizers.NFC)
    merges_alike = isinstance(backend.model, models.BPE) and backend.model.dropout is None
    if backend.pre_tokenizer is None or not keeps_ascii or not merges_alike:
        return None
    try:
        steps = json.loads(backend.pre_tokenizer.__getstate__())
    except Exception:  # noqa: BLE001 - a bare one, if the pre-tokenizer is written in Python
        return None
    if steps["type"] != "Sequence":
        return _GPT2 if _is_byte_level(steps, cuts=True) else None
    steps = steps["pretokenizers"]
    if len(steps) != 2:
        return None
    first, second = steps
    if first == {"type": "Digits", "individual_digits": True} and _is_byte_level(second, cuts=True):
        return _SINGLE_DIGITS
    is_split = first["type"] == "Split" and first["behavior"] == "Isolated" and not first["invert"]
    if is_split and _is_byte_level(second, cuts=False):
        return _PATTERNS.get(first["pattern"].get("Regex"))
    return None


def _state_of(backend: Any) -> tuple[Any, ...]:
    """Return what the ids of a piece depend on, in 60 us.

    Comparing whole vocabularies would take longer than the pieces save. A model with other merges or ids nearly always
    has other ids of the probe.
    """
    pattern = _pattern_of(backend)
    if pattern is None:  # no pieces are kept
        return (None,)
    settings = [getattr(backend.model, name, None) for name in _MODEL_SETTINGS]
    ids: tuple[int, ...] = ()
    with contextlib.suppress(Exception):  # a bare one, for an unknown token that is not in the vocabulary
        ids = tuple(token.id for token in backend.model.tokenize(_PROBE_OF_MODEL))
    return pattern, backend.get_vocab_size(with_added_tokens=False), ids, *settings


def _cuts_alike(backend: Any, pattern: str, text: str) -> bool:
    """Whether the installed version of `tokenizers` cuts a text where the pattern does."""
    cuts = [place for _, place in backend.pre_tokenizer.pre_tokenize_str(text)]
    return cuts == [match.span() for match in re.finditer(pattern, text)]


def _is_byte_level(step: dict[str, Any], cuts: bool) -> bool:
    return step["type"] == "ByteLevel" and not step["add_prefix_space"] and step["use_regex"] == cuts


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
