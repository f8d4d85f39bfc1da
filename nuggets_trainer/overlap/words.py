"""Texts as numbers: their words, a hash of each word, and hashes of word n-grams."""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nuggets_trainer.data.row import SYSTEM_ROLES, UNSPACED, Message, Row, joined_text

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

MOST_WORDS = 300_000  # words whose hashes are kept, about 50 MB; a large pool always has new words
_WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no word of an n-gram loses its part in the hash
_ASCII = "".join(chr(code).lower() if chr(code).isalnum() else " " for code in range(128))


def words_of(text: str) -> list[str]:
    """Split a text into words in lower case, without punctuation.

    Chinese, Japanese, Thai and the like put no spaces between words: each of their characters is a word.

    Example:
        >>> words_of("Don't panic: it's 42!")
        ['don', 't', 'panic', 'it', 's', '42']
    """
    if text.isascii():  # six times as fast as the expression, which gives the same
        return text.translate(_ASCII).split()
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


def said(part: str | list[Message]) -> str:
    """Return a prompt or completion as text, without system messages: many rows have the same one."""
    if isinstance(part, str):
        return part
    return joined_text([message for message in part if message["role"] not in SYSTEM_ROLES])


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class HashedTexts:
    """Hashes of the words of n texts, one text after the other.

    Attributes:
        hashes: hash of each word, `(N,)`.
        starts: place where each text begins in `hashes`, and the end of the last one, `(n + 1,)`.
    """

    hashes: Hashes
    starts: Ints

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Ints:
        """Number of words of each text, `(n,)`."""
        return np.diff(self.starts)

    @functools.cached_property
    def text_of(self) -> Ints:
        """Number of the text that each word is from, `(N,)`."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def grams(self, longest: int, sizes: Collection[int] | None = None) -> Iterator[tuple[int, Hashes, Ints]]:
        """Hash all sequences of 1, 2, ... words; no sequence crosses from one text into the next.

        Args:
            longest: number of words in the longest sequences.
            sizes: numbers of words that are wanted; None for all.

        Yields:
            Number of words of a sequence, hashes of all sequences of that length, `(g,)`, and the place of the
            first word of each in `hashes`, `(g,)`, ascending.
        """
        words_left = np.repeat(self.starts[1:], self.lengths) - np.arange(len(self.hashes))
        rolled = self.hashes * _FACTOR
        for size in range(1, min(longest, len(self.hashes)) + 1):
            if size > 1:
                rolled = (rolled[:-1] + self.hashes[size - 1 :]) * _FACTOR
            if sizes is not None and size not in sizes:
                continue
            places = np.flatnonzero(words_left[: len(rolled)] >= size)
            yield size, _mixed(rolled[places]), places

    def shingles(self, size: int) -> HashedTexts:
        """Return the hashes of all sequences of `size` words in each text; a shorter text is one sequence.

        Args:
            size: number of words in a sequence.
        """
        lengths = self.lengths
        is_short = (lengths > 0) & (lengths < size)
        padded_lengths = np.where(is_short, size, lengths)
        starts = _starts(padded_lengths)
        padded = np.zeros(starts[-1], dtype=np.uint64)
        padded[np.arange(len(self.hashes)) + np.repeat(starts[:-1] - self.starts[:-1], lengths)] = self.hashes
        if len(padded) < size:
            return HashedTexts(np.zeros(0, dtype=np.uint64), np.zeros(len(self) + 1, dtype=np.int64))
        *_, (_, hashes, _) = HashedTexts(padded, starts).grams(size, {size})
        return HashedTexts(hashes, _starts(np.maximum(padded_lengths - size + 1, 0)))


class WordHasher:
    """A hasher of words, which keeps the hashes of words that it has seen."""

    def __init__(self) -> None:
        self._known = _KnownWords()

    def hash_texts(self, texts: Sequence[str]) -> HashedTexts:
        """Hash the words of each text.

        Args:
            texts: n texts.
        """
        return self._hash_words([words_of(text) for text in texts])

    def hash_rows(self, rows: Sequence[Row]) -> tuple[HashedTexts, Ints]:
        """Hash the words of each row, those of its prompt first; a row that is tokenized has its token ids as words.

        Args:
            rows: n rows.

        Returns:
            The hashes, and the number of words in each prompt, `(n,)`.
        """
        words: list[list[str]] = []
        prompt_lengths = np.zeros(len(rows), dtype=np.int64)
        for number, row in enumerate(rows):
            if row.tokens is not None:
                words.append([str(token) for token in row.tokens[0]])
                continue
            own = words_of(said(row.prompt))
            prompt_lengths[number] = len(own)
            words.append(own + words_of(said(row.completion)))
        return self._hash_words(words), prompt_lengths

    def _hash_words(self, words: Sequence[list[str]]) -> HashedTexts:
        if len(self._known) > MOST_WORDS:
            self._known.clear()
        starts = _starts(np.array([len(own) for own in words], dtype=np.int64))
        every_word = itertools.chain.from_iterable(words)
        hashes = np.fromiter(map(self._known.__getitem__, every_word), dtype=np.uint64, count=int(starts[-1]))
        return HashedTexts(hashes, starts)


class _KnownWords(dict[str, int]):
    """Hashes by word; Python's own `hash` differs from process to process."""

    def __missing__(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self[word] = int.from_bytes(digest, "little")
        return self[word]


def _starts(lengths: Ints) -> Ints:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])


def _mixed(hashes: Hashes) -> Hashes:
    """Spread the difference of two hashes over all bits (the finisher of SplitMix64)."""
    mixed = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)), dtype=np.uint64)
