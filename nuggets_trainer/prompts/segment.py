"""`Segment`: token ids, some of which are scored. `CandidatePrompt`: a candidate before all anchors, in few bytes."""

from __future__ import annotations

import enum
import functools
import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


class Remark(enum.Enum):
    """How a rendering differs from what its row says, or from how the first versions rendered it."""

    REASONING_LEFT_OUT = "reasoning_left_out"
    SYSTEM_LEFT_OUT = "system_left_out"
    AS_TRAINED = "as_trained"  # the candidate is written as the last turn, with its reasoning
    PARTS_JOINED = "parts_joined"  # contents that are lists of parts are given as text
    OWN_START = "own_start"  # the completion starts behind the place that TRL finds


RENDERED_ANEW = (Remark.AS_TRAINED, Remark.PARTS_JOINED, Remark.OWN_START)


def stored_key(key: str, remarks: Iterable[Remark]) -> str:
    """Return the key under which the store keeps a row's pairs: its content hash, unless it is rendered anew.

    A store may hold pairs of such a row as the first versions rendered it. All other rows keep their pairs.

    Args:
        key: content hash of the row.
        remarks: remarks on its rendering.
    """
    changes = sorted(remark.value for remark in set(remarks) if remark in RENDERED_ANEW)
    if not changes:
        return key
    return hashlib.sha256(" ".join([key, *changes]).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Segment:
    """Token ids, and the positions of the scored ones.

    Attributes:
        ids: token ids.
        start: position of the first scored token, at least 1, so that this token has a context.
        scored: positions of all scored tokens, ascending, the first is `start`; None if all tokens from `start` to the
            end are scored.
        remarks: remarks on the rendering of a whole conversation; a part of it has none.

    Example:
        >>> Segment([5, 6, 7, 8], 2).targets, Segment([5, 6, 7, 8], 1, (1, 3)).targets
        ([7, 8], [6, 8])
    """

    ids: list[int]
    start: int
    scored: tuple[int, ...] | None = None
    remarks: frozenset[Remark] = field(default=frozenset(), compare=False, repr=False)

    @property
    def positions(self) -> Sequence[int]:
        """Positions of the scored tokens, ascending."""
        if self.scored is None:
            return range(self.start, len(self.ids))
        return self.scored

    @property
    def targets(self) -> list[int]:
        """Ids of the scored tokens."""
        if self.scored is None:
            return self.ids[self.start :]
        return [self.ids[position] for position in self.scored]

    @property
    def num_completion_tokens(self) -> int:
        """Number of scored tokens."""
        return len(self.positions)

    def behind(self, prefix_ids: Sequence[int]) -> Segment:
        """Put token ids before the segment; they are not scored."""
        return self._moved([*prefix_ids, *self.ids], len(prefix_ids))

    def without_first(self, num_tokens: int) -> Segment:
        """Remove tokens at the beginning.

        None of them may be scored, and one token must stay before the first scored one.
        `segment.without_first(n).behind(segment.ids[:n])` equals `segment`.
        """
        assert num_tokens < self.start, (num_tokens, self.start)
        return self._moved(self.ids[num_tokens:], -num_tokens)

    def _moved(self, ids: list[int], by: int) -> Segment:
        if self.scored is None:
            return Segment(ids, self.start + by)
        return Segment(ids, self.start + by, tuple(position + by for position in self.scored))


PrefixedSegments = tuple[Sequence[int], Sequence[Segment]]  # a prefix (may be empty) and the segments behind it


def scored_at(ids: list[int], positions: Sequence[int]) -> Segment:
    """Return the segment that scores the tokens at these positions.

    Args:
        ids: token ids.
        positions: positions of the scored tokens, ascending, at least one, each at least 1.

    Example:
        >>> scored_at([5, 6, 7, 8], [2, 3])
        Segment(ids=[5, 6, 7, 8], start=2, scored=None)
    """
    reaches_the_end = len(positions) == len(ids) - positions[0]
    if reaches_the_end:
        return Segment(ids, positions[0])
    return Segment(ids, positions[0], tuple(positions))


def common_prefix_length(ids: Sequence[Any], other_ids: Sequence[Any]) -> int:
    """Count the tokens (or letters) that two sequences have in common at their beginning.

    TRL finds the start of a completion in this way.
    """
    for position, (token, other) in enumerate(zip(ids, other_ids, strict=False)):
        if token != other:
            return position
    return min(len(ids), len(other_ids))


class PackedIds:
    """Token ids in 2 or 3 bytes each, read-only; a list takes 8 for each, and most numbers 28 more.

    Args:
        ids: token ids; no vocabulary has 16 million tokens.
    """

    __slots__ = ("_bytes", "_width")

    def __init__(self, ids: Sequence[int]) -> None:
        self._width = 2
        try:
            self._bytes = array("H", ids).tobytes()
        except OverflowError:  # an id of 65,536 or more
            self._width = 3
            four_bytes = np.array(ids, dtype="<u4").view(np.uint8).reshape(-1, 4)
            assert not four_bytes[:, 3].any(), max(ids)
            self._bytes = four_bytes[:, :3].tobytes()

    def __len__(self) -> int:
        return len(self._bytes) // self._width

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PackedIds) and (self._width, self._bytes) == (other._width, other._bytes)

    def __hash__(self) -> int:
        return hash(self._bytes)

    def tolist(self) -> list[int]:
        """Return the ids."""
        if self._width == 2:
            return array("H", self._bytes).tolist()
        four_bytes = np.zeros((len(self), 4), dtype=np.uint8)
        four_bytes[:, :3] = np.frombuffer(self._bytes, dtype=np.uint8).reshape(-1, 3)
        ids: list[int] = four_bytes.view("<u4").ravel().tolist()
        return ids


class PackedSegments(Mapping[int, Segment]):
    """Segments by the position of their anchor, read-only, with token ids packed.

    Args:
        segments: segments by position; their remarks are not kept.
    """

    def __init__(self, segments: Mapping[int, Segment]) -> None:
        self._packed: dict[int, tuple[PackedIds, int, tuple[int, ...] | None]] = {}
        for j, segment in segments.items():
            self._packed[j] = PackedIds(segment.ids), segment.start, segment.scored

    def __getitem__(self, j: int) -> Segment:
        ids, start, scored = self._packed[j]
        return Segment(ids.tolist(), start, scored)

    def __iter__(self) -> Iterator[int]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)

    def num_tokens(self, j: int) -> int:
        """Return the length of one segment."""
        return len(self._packed[j][0])


NO_SEGMENTS = PackedSegments({})


@dataclass(frozen=True, slots=True)
class CandidatePrompt:
    """One candidate before all anchors; `SharedPrefix.parts` gives it as the engine takes it.

    Attributes:
        prefixes: token ids before the anchors of each header (`SharedPrefix.headers`); empty if these
            anchors cannot share them.
        unshared: whole one-shot segments of the anchors with an empty prefix, by anchor position.
        remarks: remarks on how the candidate is rendered.
    """

    prefixes: tuple[PackedIds, ...]
    unshared: PackedSegments
    remarks: frozenset[Remark]

    def prefix_tokens(self) -> int:
        """Count the tokens of all prefixes: what scoring the candidate costs before the first anchor."""
        return sum(map(len, self.prefixes))

    def row_tokens(self) -> int:
        """Return about how many tokens the candidate's own row has: those before an anchor."""
        return max(map(len, self.prefixes)) or self.num_tokens()

    def num_tokens(self) -> int:
        """Return the length of the longest prefix or whole segment, to sort candidates by."""
        longest = max(map(len, self.prefixes))
        for j in self.unshared:
            longest = max(longest, self.unshared.num_tokens(j))
        return longest


def packed_prompt(
    prefixes: Iterable[Sequence[int]], unshared: Mapping[int, Segment], remarks: Iterable[Remark]
) -> CandidatePrompt:
    """Make the prompt of a candidate; what many candidates have alike is kept once."""
    return CandidatePrompt(
        prefixes=tuple(PackedIds(prefix) for prefix in prefixes),
        unshared=PackedSegments(unshared) if unshared else NO_SEGMENTS,
        remarks=_kept_once(frozenset(remarks)),
    )


@functools.cache
def _kept_once(remarks: frozenset[Remark]) -> frozenset[Remark]:
    return remarks
