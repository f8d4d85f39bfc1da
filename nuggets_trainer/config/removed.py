"""Options of earlier versions that are gone, with the reason and what to do instead."""

from __future__ import annotations

from collections.abc import Iterable

REMOVED = {
    "race_confidence": "was removed in 0.2: the exact race needs fewer pairs where the paper is. Delete it.",
    "flush_seconds": "was removed in 0.2: parts are written every 30 seconds. Delete it.",
    "flush_candidates": "was removed in 0.2: parts are written every 1,000 candidates. Delete it.",
}


def refuse_removed(names: Iterable[str]) -> None:
    """Raise `ValueError` if one of these options was removed; the error says why and what to do.

    Example:
        >>> refuse_removed(["top_k"])
        >>> refuse_removed(["flush_seconds"])
        Traceback (most recent call last):
        ValueError: `flush_seconds` was removed in 0.2: parts are written every 30 seconds. Delete it.
    """
    for name in names:
        if name in REMOVED:
            raise ValueError(f"`{name}` {REMOVED[name]}")
