"""Many pairs of candidates and anchors at a time: which are missing, which candidates are equal. Knows no model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Key = TypeVar("Key")

BLOCK = 65536  # candidates whose pairs are looked at together

Wanted = Iterable[tuple[int, npt.NDArray[np.int64]]]  # candidates, and the anchors to score each on


def blocks(keys: list[Key]) -> Iterator[tuple[list[Key], slice]]:
    """Yield one part of the keys after the other, each with its place."""
    for start in range(0, len(keys), BLOCK):
        yield keys[start : start + BLOCK], slice(start, start + BLOCK)


class MissingPairs:
    """Candidates with the anchors that they have yet to be scored on, found as they are asked for.

    Args:
        candidates: pool indices.
        order: places among them, in the order to score in.
        needless: `(len(candidates), m)`, pairs that need no score.
    """

    def __init__(self, candidates: list[int], order: list[int], needless: npt.NDArray[np.bool_]) -> None:
        self._candidates, self._order, self._needless = candidates, order, needless
        self.num_pairs = int(needless.size - np.count_nonzero(needless))

    def __iter__(self) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        for place in self._order:
            anchors = np.flatnonzero(~self._needless[place])
            if len(anchors):
                yield self._candidates[place], anchors


def distinct(keys: list[str]) -> tuple[npt.NDArray[np.int64], dict[str, int]]:
    """Return of each key the number of its first occurrence among the different ones, and by key that first place."""
    first: dict[str, int] = {}
    for place, key in enumerate(keys):
        first.setdefault(key, place)
    number = {key: row for row, key in enumerate(first)}
    return np.fromiter((number[key] for key in keys), np.int64, len(keys)), first
