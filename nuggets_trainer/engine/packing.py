"""Which tokens share a row of a packed forward pass. Pure: knows lengths, no tokens, no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """A stretch of a row: a prefix, or one of the segments behind it.

    Attributes:
        prefix: position of the prefix that it is, or that it stands behind.
        segment: position among the segments behind that prefix; None for the prefix itself.
        length: tokens.
        start: where it begins in its row.
    """

    prefix: int
    segment: int | None
    length: int
    start: int


def pack(prefixed: Sequence[tuple[int, Sequence[int]]], tokens_per_row: int) -> list[list[Piece]]:
    """Put prefixes and segments, in order, into as few rows as the budget admits, about equally long.

    A prefix comes before its segments: in the same row, or in an earlier one. Nothing is cut or padded; a piece that
    is longer than the budget has a row of its own.

    Args:
        prefixed: length of each prefix (0 for none) and lengths of the segments behind it, in tokens.
        tokens_per_row: budget of a row.

    Returns:
        The rows, each a list of pieces.

    Example:
        >>> [[(p.segment, p.start, p.length) for p in row] for row in pack([(4, [3, 3, 2])], 8)]
        [[(None, 0, 4), (0, 4, 3)], [(1, 0, 3), (2, 3, 2)]]
    """
    pieces: list[tuple[int, int | None, int]] = []
    for prefix, (prefix_length, lengths) in enumerate(prefixed):
        if prefix_length:
            pieces.append((prefix, None, prefix_length))
        pieces += [(prefix, segment, length) for segment, length in enumerate(lengths)]
    num_rows = _num_rows(pieces, tokens_per_row)
    even = -(-sum(length for *_, length in pieces) // max(num_rows, 1))
    # The shortest limit that needs no further row: rows of one length suit matrix products, and a short last row none.
    limit = even
    while limit < tokens_per_row and _num_rows(pieces, limit) > num_rows:
        limit += max(1, even // 32)
    return _fill(pieces, min(limit, tokens_per_row))


def _num_rows(pieces: Sequence[tuple[int, int | None, int]], limit: int) -> int:
    rows, used = 0, limit
    for *_, length in pieces:
        if used + length > limit:
            rows, used = rows + 1, 0
        used += length
    return rows


def _fill(pieces: Sequence[tuple[int, int | None, int]], limit: int) -> list[list[Piece]]:
    rows: list[list[Piece]] = []
    used = limit
    for prefix, segment, length in pieces:
        if not rows or used + length > limit:
            rows.append([])
            used = 0
        rows[-1].append(Piece(prefix, segment, length, used))
        used += length
    return rows
