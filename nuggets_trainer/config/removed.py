"""Options of earlier versions that are gone, with the reason and what to do instead."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, TypeVar

Options = TypeVar("Options")

REMOVED = {
    "race_confidence": "was removed in 0.2: the exact race needs fewer pairs at the cuts of the paper. Delete it.",
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


def explain_removed(options: type[Options]) -> type[Options]:
    """Let a dataclass refuse removed options with the reason, before its `__init__` refuses them as unknown.

    `__init__` is wrapped, because a `__new__` would hide the names of the options from `inspect.signature` and so from
    editors.
    """
    init = options.__init__

    @functools.wraps(init)
    def explaining_init(self: Options, *args: Any, **given: Any) -> None:
        refuse_removed(given)
        init(self, *args, **given)

    options.__init__ = explaining_init  # type: ignore[method-assign, assignment]
    return options
