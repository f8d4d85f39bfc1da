"""Many candidates at a time: blocks of them, and which of them are equal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Key = TypeVar("Key")

BLOCK = 65536  # candidates whose pairs are looked at together, so that a large pool fits in memory


def blocks(keys: list[Key]) -> Iterator[tuple[list[Key], slice]]:
    """Yield one part of the keys after the other, each with its place."""
    for start in range(0, len(keys), BLOCK):
        yield keys[start : start + BLOCK], slice(start, start + BLOCK)


def distinct(keys: list[str]) -> tuple[npt.NDArray[np.int64], dict[str, int]]:
    """Give equal keys the same number, in the order in which they first occur.

    Returns:
        The number of each key, `(len(keys),)`, and the first place of each different key, in order.

    Example:
        >>> numbers, first = distinct(["b", "a", "b"])
        >>> numbers.tolist(), first
        ([0, 1, 0], {'b': 0, 'a': 1})
    """
    first: dict[str, int] = {}
    for place, key in enumerate(keys):
        first.setdefault(key, place)
    number = dict(zip(first, range(len(first)), strict=True))
    return np.fromiter(map(number.__getitem__, keys), np.int64, len(keys)), first
