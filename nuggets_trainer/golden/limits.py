"""What a golden set may not have: more rows of a group than its quota, near-duplicates. Pure numpy; knows no pool."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def quotas(groups: Sequence[str], k: int, quota: str) -> dict[str, int]:
    """Share k places among groups.

    Args:
        groups: of each candidate, n of them.
        k: places, at most n.
        quota: `proportional` gives each group its share of the candidates (largest remainders first), `equal` as many
            as any other; what a group cannot fill goes to the others.

    Returns:
        Places by group, k together.

    Example:
        >>> quotas(["a"] * 6 + ["b"] * 3 + ["c"], 5, "proportional")
        {'a': 3, 'b': 2, 'c': 0}
        >>> quotas(["a"] * 6 + ["b"] * 3 + ["c"], 5, "equal")
        {'a': 2, 'b': 2, 'c': 1}
    """
    sizes = dict(sorted(Counter(groups).items()))
    assert k <= len(groups), (k, len(groups))
    if quota == "proportional":
        exact = {name: k * size / len(groups) for name, size in sizes.items()}
        places = {name: int(share) for name, share in exact.items()}
        by_remainder = sorted(sizes, key=lambda name: (places[name] - exact[name], name))
        for name in by_remainder[: k - sum(places.values())]:
            places[name] += 1
        return places
    places = dict.fromkeys(sizes, 0)
    while (left := k - sum(places.values())) > 0:
        open_groups = [name for name in sizes if places[name] < sizes[name]]
        for name in open_groups[:left]:
            places[name] += min(max(1, left // len(open_groups)), sizes[name] - places[name])
    return places


class Limits:
    """Admits candidates to a golden set one after the other, or passes them over.

    Args:
        groups: of each candidate, `(n,)`; None without quotas.
        places: by group, from `quotas`.
        embeddings: of each candidate, `(n, d)`; None where near-duplicates may stay.
        max_similarity: cosine above which a candidate is a near-duplicate of one that is admitted already.

    Attributes:
        passed_over: how many were not admitted, by reason: `full_group`, `near_duplicate`.
    """

    def __init__(
        self,
        groups: Sequence[str] | None = None,
        places: dict[str, int] | None = None,
        embeddings: npt.NDArray[np.float32] | None = None,
        max_similarity: float = 1.0,
    ) -> None:
        assert (groups is None) == (places is None)
        self._groups, self._left = groups, dict(places or {})
        self._directions = None if embeddings is None else _directions(embeddings)
        self._admitted: list[npt.NDArray[np.float32]] = []
        self._max_similarity = max_similarity
        self.passed_over: Counter[str] = Counter()

    def admit(self, candidate: int) -> bool:
        """Whether the candidate, a position among the n, enters; it counts from then on."""
        if self._groups is not None and self._left[self._groups[candidate]] == 0:
            self.passed_over["full_group"] += 1
            return False
        if self._directions is not None:
            own = self._directions[candidate]
            if self._closest(own) > self._max_similarity:
                self.passed_over["near_duplicate"] += 1
                return False
            self._remember(own)
        if self._groups is not None:
            self._left[self._groups[candidate]] -= 1
        return True

    def _closest(self, own: npt.NDArray[np.float32]) -> float:
        return max((float((block @ own).max()) for block in self._admitted), default=-1.0)

    def _remember(self, own: npt.NDArray[np.float32]) -> None:
        # Blocks that double, so that looking at all that was admitted takes few products and no copy of everything.
        self._admitted.append(own[None])
        while len(self._admitted) > 1 and len(self._admitted[-2]) <= len(self._admitted[-1]):
            self._admitted[-2:] = [np.concatenate(self._admitted[-2:])]


def _directions(embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.where(length > 0, length, 1), dtype=np.float32)
