"""`Segment`: token ids with a completion span, what prompts are made of and the engine scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """Token ids of which `[start, len(ids))` is the completion span; `start >= 1`, so each has a context."""

    ids: list[int]
    start: int

    @property
    def num_completion_tokens(self) -> int:
        """Tokens that are scored."""
        return len(self.ids) - self.start


Group = tuple[Sequence[int], Sequence[Segment]]  # a prefix (may be empty) and the segments behind it


def common_prefix_length(ids: list[int], other_ids: list[int]) -> int:
    """Count the tokens that two sequences begin with alike (TRL splits prompt and completion in the same way)."""
    for position, (token, other) in enumerate(zip(ids, other_ids, strict=False)):
        if token != other:
            return position
    return min(len(ids), len(other_ids))
