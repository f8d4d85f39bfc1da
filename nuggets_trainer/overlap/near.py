"""Near-duplicates: rows that share most of their word n-grams, found by MinHash and checked word by word.

MinHash (Broder 1997) finds rows that may be alike without comparing all pairs: the signatures of two rows agree in a
place with a probability that equals their Jaccard similarity. The pairs that it finds are compared exactly, so that no
row is a near-duplicate by chance. rensa computes the signatures, much faster than datasketch (docs/log/overlap.md).
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from nuggets_trainer.data.row import Row
from nuggets_trainer.overlap.words import HashedTexts, Hashes, Ints, WordHasher

WORDS = 3  # words in a sequence that two rows may share
SIMILARITY = 0.7  # least share of common sequences (Jaccard) at which two rows are near-duplicates
# The least share in their completions alone: rows with one long prompt and different answers are no duplicates. It is
# lower because one changed word in an answer of ten words leaves 0.45.
COMPLETION_SIMILARITY = 0.4
# A pair is found if two of its bands agree: 93% of the pairs with a similarity of 0.7, 99.7% of those with 0.8.
BANDS, BAND_PLACES = 16, 4
FEWEST_BANDS = 2
SEED = 0
ROWS_IN_MEMORY = 20_000  # rows whose sequences are kept for comparisons, about 1.4 kB each
PAIRS_AT_ONCE = 200_000


def can_find_near() -> bool:
    """Whether rensa, which makes the signatures, is installed; without a wheel for the system it needs a compiler."""
    return importlib.util.find_spec("rensa") is not None


def band_hashes(texts: HashedTexts) -> Hashes:
    """Hash the bands of the signature of each text; texts that are alike have equal hashes in some columns.

    Args:
        texts: n texts.

    Returns:
        Hashes `(n, BANDS)`; all texts without words have the same hashes, and the exact comparison rejects them.
    """
    from rensa import RMinHash

    shingles = texts.shingles(WORDS)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        shingles.hashes, shingles.starts.astype(np.uint64), num_perm=BANDS * BAND_PLACES, seed=SEED
    )
    places = np.array(matrix.to_rows(), dtype=np.uint64).reshape(len(texts), BANDS, BAND_PLACES)
    factors = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93], np.uint64)
    hashes: Hashes = ((places + np.uint64(1)) * factors).sum(axis=2, dtype=np.uint64)
    return hashes


def find_near_duplicates(hashes: Hashes, rows: Ints, read: Callable[[Sequence[int]], Sequence[Row]]) -> dict[int, int]:
    """Find the rows that are near-duplicates of an earlier row that is not a near-duplicate itself.

    Args:
        hashes: hashes of the bands of each row, `(n, BANDS)`.
        rows: pool indices of these rows, `(n,)`, ascending.
        read: function that returns the rows of pool indices.

    Returns:
        Pool index of the earlier row by that of the near-duplicate.
    """
    hasher = WordHasher()

    @functools.lru_cache(maxsize=ROWS_IN_MEMORY)
    def sequences(number: int) -> tuple[Hashes, Hashes]:
        texts, prompt_lengths = hasher.hash_rows(read([int(rows[number])]))
        completion = HashedTexts(
            texts.hashes[prompt_lengths[0] :], np.array([0, len(texts.hashes) - prompt_lengths[0]])
        )
        return np.unique(texts.shingles(WORDS).hashes), np.unique(completion.shingles(WORDS).hashes)

    def are_alike(one: int, other: int) -> bool:
        whole, completion = zip(sequences(one), sequences(other), strict=True)
        return _jaccard(*whole) >= SIMILARITY and _jaccard(*completion) >= COMPLETION_SIMILARITY

    found: dict[int, int] = {}
    for earlier, later in _candidate_pairs(hashes):
        if earlier in found or later in found:
            continue
        if are_alike(earlier, later):
            found[later] = earlier
    return {int(rows[later]): int(rows[earlier]) for later, earlier in found.items()}


def _candidate_pairs(hashes: Hashes) -> Iterator[tuple[int, int]]:
    """Yield pairs of rows that may be alike, by the later row and then by the earlier one.

    Among rows that agree in a band, each is paired with the first one and with the one before it. All pairs would be
    too many if a thousand rows are written from one template.
    """
    number = len(hashes)
    pairs = np.zeros(0, dtype=np.int64)
    for band in range(BANDS):
        order = np.argsort(hashes[:, band], kind="stable")
        ordered = hashes[order, band]
        is_equal = np.zeros(number, dtype=np.bool_)
        is_equal[1:] = ordered[1:] == ordered[:-1]
        first = np.maximum.accumulate(np.where(is_equal, 0, np.arange(number)))
        places = np.flatnonzero(is_equal)
        for partners in (first[places], places - 1):
            pairs = np.union1d(pairs, order[places] * number + order[partners])
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        later, earlier = np.divmod(pairs[start : start + PAIRS_AT_ONCE], number)
        agree = (hashes[later] == hashes[earlier]).sum(axis=1) >= FEWEST_BANDS
        yield from zip(earlier[agree].tolist(), later[agree].tolist(), strict=True)


def _jaccard(one: Hashes, other: Hashes) -> float:
    """Return the share of the elements of two sets that both have; the sets are sorted."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    together = len(one) + len(other) - shared
    return shared / together if together else 0.0
