"""`Segment`: token ids of which some are scored, what prompts are made of and the engine scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """Token ids and which of them are scored.

    Attributes:
        ids: token ids.
        start: position of the first scored token; `start >= 1`, so that it has a context.
        scored: positions of the scored tokens, ascending, the first is `start`; None where these are all from `start`
            to the end.

    Example:
        >>> Segment([5, 6, 7, 8], 2).targets, Segment([5, 6, 7, 8], 1, (1, 3)).targets
        ([7, 8], [6, 8])
    """

    ids: list[int]
    start: int
    scored: tuple[int, ...] | None = None

    @property
    def positions(self) -> Sequence[int]:
        """Positions of the scored tokens, ascending."""
        return range(self.start, len(self.ids)) if self.scored is None else self.scored

    @property
    def targets(self) -> list[int]:
        """Ids of the scored tokens."""
        return self.ids[self.start :] if self.scored is None else [self.ids[position] for position in self.scored]

    @property
    def num_completion_tokens(self) -> int:
        """Tokens that are scored."""
        return len(self.positions)

    def behind(self, prefix_ids: Sequence[int]) -> Segment:
        """Return the segment with these ids before it; they are not scored."""
        return self._moved([*prefix_ids, *self.ids], len(prefix_ids))

    def without_first(self, num_tokens: int) -> Segment:
        """Return the segment without its first tokens, of which none is scored and one stays before the first that is.

        `segment.without_first(n).behind(segment.ids[:n])` is the segment.
        """
        assert num_tokens < self.start, (num_tokens, self.start)
        return self._moved(self.ids[num_tokens:], -num_tokens)

    def _moved(self, ids: list[int], by: int) -> Segment:
        scored = None if self.scored is None else tuple(position + by for position in self.scored)
        return Segment(ids, self.start + by, scored)


PrefixedSegments = tuple[Sequence[int], Sequence[Segment]]  # a prefix (may be empty) and the segments behind it


def scored_at(ids: list[int], positions: Sequence[int]) -> Segment:
    """Return the segment that scores the tokens at these positions, ascending, at least one, each >= 1.

    Example:
        >>> scored_at([5, 6, 7, 8], [2, 3])
        Segment(ids=[5, 6, 7, 8], start=2, scored=None)
    """
    reaches_the_end = len(positions) == len(ids) - positions[0]
    return Segment(ids, positions[0], None if reaches_the_end else tuple(positions))


def common_prefix_length(ids: list[int], other_ids: list[int]) -> int:
    """Count the tokens that two sequences begin with alike (TRL splits prompt and completion in the same way)."""
    for position, (token, other) in enumerate(zip(ids, other_ids, strict=False)):
        if token != other:
            return position
    return min(len(ids), len(other_ids))
