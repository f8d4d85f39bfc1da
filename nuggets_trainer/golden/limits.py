"""Limits on a golden set: quotas of groups, a number of rows with the same prompt, no near-duplicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nuggets_trainer.golden.arrays import Ints

ROUNDING = 1e-5  # more than a cosine in float32 is off by: 2.5e-7 at 64 to 8,192 dimensions
NO_SIGNAL = "no_signal"  # reason of a row without the signal that rows are ranked by
FAILS_REQUIRE = "fails_require"  # reason to leave out a row that does not meet the user's condition
# Reasons to leave out a row that repeats an earlier one, nearly repeats one, or holds a question of a test.
DUPLICATE, NEAR_DUPLICATE, CONTAMINATED = "duplicate", "near_duplicate", "contaminated"
UNWANTED = (DUPLICATE, NEAR_DUPLICATE, CONTAMINATED)
NO_PROMPT = -1  # number of the prompt of a row that has none


def quotas(groups: Sequence[str], k: int, quota: str, in_order: Sequence[str] | None = None) -> dict[str, int]:
    """Share k places among groups.

    Args:
        groups: group of each candidate, n of them.
        k: number of places, at most n.
        quota: `proportional` gives each group its share of the candidates, rounded so that the largest remainders get
            a place more; `equal` gives each group as many places as any other, and places that a group cannot fill go
            to the others.
        in_order: names of the groups, neighbours beside each other, as classes of length are. The groups up to any of
            them then have their share of the places together, up to half a place, if it is `proportional`. Largest
            remainders could give the first half of ten equal groups a place more each. None without an order.

    Returns:
        Places by group; their sum is k.

    Example:
        >>> quotas(["a"] * 6 + ["b"] * 3 + ["c"], 5, "proportional")
        {'a': 3, 'b': 2, 'c': 0}
        >>> quotas(["a"] * 6 + ["b"] * 3 + ["c"], 5, "equal")
        {'a': 2, 'b': 2, 'c': 1}
        >>> quotas(["a", "b", "c", "d"], 2, "proportional", in_order=["a", "b", "c", "d"])
        {'a': 1, 'b': 0, 'c': 1, 'd': 0}
    """
    sizes = dict(sorted(Counter(groups).items()))
    assert k <= len(groups), (k, len(groups))
    if quota == "proportional" and in_order is not None:
        return _quotas_in_order({name: sizes[name] for name in in_order}, k)
    if quota == "proportional":
        return _proportional_quotas(sizes, k)
    return _equal_quotas(sizes, k)


def _proportional_quotas(sizes: dict[str, int], k: int) -> dict[str, int]:
    num_candidates = sum(sizes.values())
    places: dict[str, int] = {}
    missing: dict[str, float] = {}  # minus the remainder of each share
    for name, size in sizes.items():
        exact = k * size / num_candidates
        places[name] = int(exact)
        missing[name] = places[name] - exact
    by_remainder = sorted(sizes, key=lambda name: (missing[name], name))
    for name in by_remainder[: k - sum(places.values())]:
        places[name] += 1
    return places


def _quotas_in_order(sizes: dict[str, int], k: int) -> dict[str, int]:
    num_candidates = sum(sizes.values())
    places: dict[str, int] = {}
    num_up_to = 0  # candidates of this group and those before it
    for name, size in sizes.items():
        num_up_to += size
        share = (2 * k * num_up_to + num_candidates) // (2 * num_candidates)  # rounded to the nearest
        places[name] = share - sum(places.values())
    return places


def _equal_quotas(sizes: dict[str, int], k: int) -> dict[str, int]:
    places = dict.fromkeys(sizes, 0)
    while (left := k - sum(places.values())) > 0:
        open_groups = [name for name in sizes if places[name] < sizes[name]]
        each = max(1, left // len(open_groups))
        for name in open_groups[:left]:
            places[name] += min(each, sizes[name] - places[name])
    return places


class Limits:
    """Admits candidates to a golden set one after the other, or passes them over.

    Args:
        groups: group of each candidate, `(n,)`; None without quotas.
        places: places by group, from `quotas`; None without quotas.
        embeddings: embedding of each candidate, `(n, d)`; None if near-duplicates may stay.
        max_similarity: cosine above which a candidate is a near-duplicate of an admitted one. Candidates with equal
            embeddings are near-duplicates whatever it says.
        prompts: number of each candidate's prompt, `(n,)`, equal for equal prompts, `NO_PROMPT` for a row without one,
            which has no limit; None if any number of rows may have the same prompt.
        max_rows_per_prompt: number of admitted candidates that may have the same prompt.

    Attributes:
        passed_over: number of candidates that were not admitted, by reason: `full_group`, `full_prompt`,
            `near_duplicate`.
    """

    def __init__(
        self,
        groups: Sequence[str] | None = None,
        places: dict[str, int] | None = None,
        embeddings: npt.NDArray[np.float32] | None = None,
        max_similarity: float = 1.0,
        prompts: Ints | None = None,
        max_rows_per_prompt: int = 1,
    ) -> None:
        assert (groups is None) == (places is None)
        self._groups, self._left = groups, dict(places or {})
        self._embeddings = embeddings
        self._directions = None if embeddings is None else _directions(embeddings)
        self._admitted: list[int] = []
        self._blocks: list[npt.NDArray[np.float32]] = []  # directions of the admitted candidates, in their order
        self._max_similarity = max_similarity
        self._prompts = prompts
        self._max_rows_per_prompt = max_rows_per_prompt
        self._num_with_prompt: Counter[int] = Counter()  # of the admitted candidates
        self.passed_over: Counter[str] = Counter()

    def admit(self, candidate: int) -> bool:
        """Admit a candidate if no limit forbids it, and count it from then on.

        Args:
            candidate: position among the n candidates.

        Returns:
            Whether it is admitted.
        """
        if self._groups is not None and self._left[self._groups[candidate]] == 0:
            self.passed_over["full_group"] += 1
            return False
        prompt = NO_PROMPT
        if self._prompts is not None:
            prompt = int(self._prompts[candidate])
        if prompt != NO_PROMPT and self._num_with_prompt[prompt] >= self._max_rows_per_prompt:
            self.passed_over["full_prompt"] += 1
            return False
        if self._embeddings is not None and self._directions is not None:
            if self._is_near_duplicate(candidate, self._embeddings, self._directions):
                self.passed_over[NEAR_DUPLICATE] += 1
                return False
            self._admitted.append(candidate)
            self._add_direction(self._directions[candidate])
        if self._groups is not None:
            self._left[self._groups[candidate]] -= 1
        if prompt != NO_PROMPT:
            self._num_with_prompt[prompt] += 1
        return True

    def _is_near_duplicate(
        self, candidate: int, embeddings: npt.NDArray[np.float32], directions: npt.NDArray[np.float32]
    ) -> bool:
        """Whether an admitted candidate is too similar.

        In float32 the cosine of two equal embeddings comes out between 0.9999997 and 1.0000002. Near the limit it is
        computed again in float64, and equal embeddings count whatever it is.
        """
        if not self._admitted:
            return False
        cosines = np.concatenate([block @ directions[candidate] for block in self._blocks])
        if cosines.max() > self._max_similarity + ROUNDING:
            return True
        near = np.flatnonzero(cosines > self._max_similarity - ROUNDING)
        own = embeddings[candidate].astype(np.float64)
        for place in near.tolist():
            other = embeddings[self._admitted[place]].astype(np.float64)
            is_equal = bool(own.any()) and np.array_equal(own, other)
            if is_equal or _cosine(own, other) > self._max_similarity:
                return True
        return False

    def _add_direction(self, own: npt.NDArray[np.float32]) -> None:
        # Blocks whose sizes double: comparing with all of them takes few products, and adding one copies little.
        self._blocks.append(own[None])
        while len(self._blocks) > 1 and len(self._blocks[-2]) <= len(self._blocks[-1]):
            self._blocks[-2:] = [np.concatenate(self._blocks[-2:])]


def _directions(embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Scale the embeddings to length 1; those of length 0 stay."""
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.where(length > 0, length, 1), dtype=np.float32)


def _cosine(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """Return the cosine of two embeddings; 0 if one has length 0."""
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / length if length > 0 else 0.0
