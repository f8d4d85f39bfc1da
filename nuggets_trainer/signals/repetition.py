"""How much of a completion repeats itself, by its text alone: no model, no anchors."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import UNSPACED, UnusableRowError, joined_text

WORDS = 5  # words in a sequence that counts as repeated
_WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")


def repetition(text: str) -> float:
    """Return the share of a text's characters in sequences of five words that have occurred before in it.

    This is a filter of Gopher (Rae et al. 2021, arXiv 2112.11446, table A1: fraction of characters in duplicate word
    5-grams). A text that says something twice has 0.5, one that says it ten times has 0.9.

    Args:
        text: the text; spaces do not count as characters.

    Returns:
        The share, in [0, 1); 0 for a text of fewer than six words.

    Example:
        >>> repetition("Plants need light and water. Plants need light and water.")
        0.5
        >>> repetition("Plants need light and water, and animals need plants.")
        0.0
    """
    words = _WORD.findall(text)
    return _share(words, [len(word) for word in words])


def repetition_of_tokens(ids: Sequence[int]) -> float:
    """Return the share of tokens in sequences of five tokens that have occurred before; for rows without a text."""
    return _share(ids, [1] * len(ids))


def _share(words: Sequence[Hashable], sizes: Sequence[int]) -> float:
    sequences = list(zip(*(words[start:] for start in range(WORDS)), strict=False))
    if len(set(sequences)) == len(sequences):  # most texts
        return 0.0
    repeated = np.zeros(len(words), dtype=np.bool_)
    seen = set()
    for start, sequence in enumerate(sequences):
        if sequence in seen:
            repeated[start : start + WORDS] = True
        seen.add(sequence)
    size = np.array(sizes)
    return float(size[repeated].sum() / size.sum())


def repetitions(pool: Pool, candidates: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return the repetition of each candidate's completion.

    Args:
        pool: the pool of n rows.
        candidates: pool indices of the candidates.

    Returns:
        Shares `(n,)`, in [0, 1); NaN for rows that are no candidates.
    """
    shares = np.full(len(pool), np.nan)
    for i, row in zip(candidates, pool.rows(candidates), strict=True):
        if isinstance(row, UnusableRowError):
            raise row
        if row.tokens is None:
            shares[i] = repetition(joined_text(row.completion))
        else:
            ids, scored = row.tokens
            shares[i] = repetition_of_tokens([ids[position] for position in scored])
    return shares
