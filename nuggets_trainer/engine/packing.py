"""Which prefixes and segments share a row of a packed forward pass, and how long it is, from their lengths alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

BLOCK = 128  # queries in a block of flex attention; its rows have whole blocks
MIN_EARLIER = 512  # the keys of prefixes in earlier rows are padded to this times a power of two


@dataclass(frozen=True)
class Piece:
    """A stretch of a row: a prefix, or one of the segments behind it.

    Attributes:
        prefix: number of the prefix that the piece is or belongs to.
        segment: position among the segments of that prefix; None for the prefix itself.
        length: number of tokens.
        start: position of its first token in the row.
    """

    prefix: int
    segment: int | None
    length: int
    start: int


def pack(prefixed: Sequence[tuple[int, Sequence[int]]], tokens_per_row: int, even: bool = True) -> list[list[Piece]]:
    """Lay prefixes and segments, in order, into as few rows as the budget admits.

    A prefix comes before its segments: in the same row, or in an earlier one. Nothing is cut or padded; a piece that
    is longer than the budget has a row of its own.

    Args:
        prefixed: length of each prefix (0 for none) and lengths of its segments, in tokens.
        tokens_per_row: budget of a row, in tokens.
        even: whether the rows are about equally long; otherwise all but the last are as full as can be.

    Returns:
        The rows, each a list of pieces.

    Example:
        >>> [[(p.segment, p.start, p.length) for p in row] for row in pack([(4, [3, 3, 2])], 8)]
        [[(None, 0, 4), (0, 4, 3)], [(1, 0, 3), (2, 3, 2)]]
    """
    if not even:
        return _fill(prefixed, tokens_per_row)
    lengths: list[int] = []
    for prefix_length, segment_lengths in prefixed:
        if prefix_length:
            lengths.append(prefix_length)
        lengths += segment_lengths
    num_rows = _num_rows(lengths, tokens_per_row)
    average = -(-sum(lengths) // max(num_rows, 1))
    # The smallest limit that needs no further row: matrix products suit rows of one length, and a short last row
    # would waste a pass.
    limit = average
    while limit < tokens_per_row and _num_rows(lengths, limit) > num_rows:
        limit += max(1, average // 32)
    return _fill(prefixed, min(limit, tokens_per_row))


def _num_rows(lengths: Sequence[int], limit: int) -> int:
    """Count the rows that pieces of these lengths fill in order."""
    num_rows, used = 0, limit
    for length in lengths:
        if used + length > limit:
            num_rows += 1
            used = 0
        used += length
    return num_rows


def _fill(prefixed: Sequence[tuple[int, Sequence[int]]], limit: int) -> list[list[Piece]]:
    rows: list[list[Piece]] = []
    used = limit
    for prefix, segment, length in _in_order(prefixed):
        if not rows or used + length > limit:
            rows.append([])
            used = 0
        rows[-1].append(Piece(prefix, segment, length, used))
        used += length
    return rows


def _in_order(prefixed: Sequence[tuple[int, Sequence[int]]]) -> Iterator[tuple[int, int | None, int]]:
    """Yield prefix, segment and length of every piece; a prefix itself has None for a segment."""
    for prefix, (prefix_length, lengths) in enumerate(prefixed):
        if prefix_length:
            yield prefix, None, prefix_length
        for segment, length in enumerate(lengths):
            yield prefix, segment, length


def row_length(length: int, tokens_per_row: int) -> int:
    """Return the length that a row is filled up to, in whole blocks.

    It is a quarter, half or all of the budget; a row that is longer than the budget gets the next whole block.
    """
    for share in (4, 2, 1):
        size = -(-tokens_per_row // share // BLOCK) * BLOCK
        if length <= size:
            return size
    return -(-length // BLOCK) * BLOCK


def earlier_keys(number: int) -> int:
    """Return the number of keys that those of earlier prefixes are padded to: 512 times a power of two."""
    size = MIN_EARLIER
    while size < number:
        size *= 2
    return size
