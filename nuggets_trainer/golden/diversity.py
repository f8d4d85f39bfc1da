"""A golden set chosen by more than the ranking: within limits on what goes together, by coverage of the anchors."""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nuggets_trainer.golden.arrays import FloatArray, Floats, Ints
from nuggets_trainer.golden.coverage import cover, gain_spread
from nuggets_trainer.golden.length_classes import NUM_CLASSES, classes_in_order, length_classes
from nuggets_trainer.golden.limits import Limits, quotas


class Groups(NamedTuple):
    """Name of the group of each candidate, `(c,)`, and of classes of length all names, shortest first; else None."""

    names: list[str]
    in_order: list[str] | None = None


@dataclass(frozen=True, eq=False)
class Diversity:
    """What a golden set is chosen by besides the ranking; arrays have one entry per pool row.

    Attributes:
        gains: one-shot minus zero-shot log-prob, `(n, m)`, nats per token, NaN where a pair is not scored; None if
            `coverage_weight` is 0.
        coverage_weight: weight of covering all anchors (`coverage.py`), in [0, 1]; 0 is a ranking.
        groups: group of each row, for its quota; None without quotas.
        group_quota: `proportional` or `equal`, see `limits.quotas`.
        embeddings: embedding of each row, `(n, d)`; None if near-duplicates may stay.
        max_similarity: cosine above which a row is a near-duplicate.
        lengths: length of each row, `(n,)`, in tokens, NaN where it is not known, for quotas of classes of length (see
            `length_classes`) in place of `groups`; None without them. The candidates define the classes.
        prompts: number of each row's prompt, `(n,)`, see `Limits`; None if any number of rows may have the same one.
        max_rows_per_prompt: number of kept rows that may have the same prompt.
    """

    gains: FloatArray | None = None
    coverage_weight: float = 0.0
    groups: Sequence[str] | None = None
    group_quota: str = "proportional"
    embeddings: npt.NDArray[np.float32] | None = None
    max_similarity: float = 1.0
    lengths: Floats | None = None
    prompts: Ints | None = None
    max_rows_per_prompt: int = 1

    def groups_of(self, rows: Ints, num_kept: int) -> Groups | None:
        """Return the groups of these rows if `num_kept` are kept; None without quotas."""
        if self.lengths is not None:
            names = length_classes(self.lengths[rows], num_kept)
            return Groups(names, classes_in_order(names, self.lengths[rows]))
        if self.groups is not None:
            return Groups([self.groups[i] for i in rows])
        return None

    @property
    def has_quotas(self) -> bool:
        """Whether groups have quotas."""
        return self.lengths is not None or self.groups is not None


@dataclass(frozen=True, eq=False)
class Choice:
    """Places in the ranking that are kept, in its order, and fields of `GoldenSet` that explain the choice."""

    places: Ints
    passed_over: dict[str, int] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)
    groups: dict[str, dict[str, int]] = field(default_factory=dict)


def choose_diverse(
    values: Floats,
    order: Ints,
    k: int,
    diversity: Diversity,
    rank_by: str,
    tokens: Floats | None = None,
    max_tokens: float = math.inf,
) -> Choice:
    """Choose places of the ranking, within the limits and by coverage if it has a weight.

    Args:
        values: value of each row, `(n,)`.
        order: pool indices of the candidates, best first, `(c,)`.
        k: number of rows that the ranking alone keeps.
        diversity: the further criteria.
        rank_by: name of the value.
        tokens: tokens of each candidate, in the order of the ranking, `(c,)`, under a token budget. The rows are then
            taken until the next one would pass it, in place of k rows. None without a budget.
        max_tokens: the budget.

    Raises:
        ValueError: if the budget has no room for the one row that quotas choose.
    """
    if tokens is not None and diversity.has_quotas:
        return _choose_within_budget(values, order, diversity, rank_by, tokens, max_tokens)
    return _choose(values, order, k, diversity, rank_by, diversity.groups_of(order, k), tokens, max_tokens)


def _choose(
    values: Floats,
    order: Ints,
    k: int,
    diversity: Diversity,
    rank_by: str,
    groups: Groups | None,
    tokens: Floats | None = None,
    max_tokens: float = math.inf,
) -> Choice:
    """Choose within groups that are known."""
    limits = _limits(order, k, diversity, groups)
    spread: dict[str, float] = {}
    if diversity.coverage_weight:
        places, spread = _cover(values, order, k, diversity, rank_by, limits)
    else:
        admitted = filter(limits.admit, range(len(order)))
        if tokens is None:
            places = np.fromiter(itertools.islice(admitted, k), dtype=np.int64)
        else:
            places = np.fromiter(_until_full(admitted, tokens, max_tokens), dtype=np.int64)
    return Choice(places, dict(limits.passed_over), spread, _group_counts(groups, places))


def _limits(order: Ints, k: int, diversity: Diversity, groups: Groups | None) -> Limits:
    """Make the limits of the candidates, in the order of the ranking."""
    names = places = embeddings = prompts = None
    if groups is not None:
        names = groups.names
        places = quotas(names, k, diversity.group_quota, groups.in_order)
    if diversity.embeddings is not None:
        embeddings = diversity.embeddings[order]
    if diversity.prompts is not None:
        prompts = diversity.prompts[order]
    return Limits(names, places, embeddings, diversity.max_similarity, prompts, diversity.max_rows_per_prompt)


def _cover(
    values: Floats, order: Ints, k: int, diversity: Diversity, rank_by: str, limits: Limits
) -> tuple[Ints, dict[str, float]]:
    """Choose places by coverage, and measure how the gains are spread, beside those of the ranking."""
    assert diversity.gains is not None
    gains = diversity.gains[order]
    quality = values[order]
    if rank_by != "golden_score":
        # Coverage needs a quality of 0 or more. Counted from the worst candidate, a gain keeps the order of the rows.
        quality = quality - quality.min()
    places = np.sort(cover(gains, quality, k, diversity.coverage_weight, limits.admit))
    spread: dict[str, float] = dict(vars(gain_spread(gains, places)))
    for name, value in vars(gain_spread(gains, np.arange(k))).items():
        spread[f"ranking_{name}"] = value
    return places, spread


def _choose_within_budget(
    values: Floats, order: Ints, diversity: Diversity, rank_by: str, tokens: Floats, max_tokens: float
) -> Choice:
    """Choose the largest number of rows within quotas whose tokens fit into the budget."""

    # Making the classes takes four fifths of the time of a choice. Only below `NUM_CLASSES` rows the number matters.
    @functools.cache
    def groups_for(number: int) -> Groups | None:
        return diversity.groups_of(order, number)

    def choose(number: int) -> Choice:
        return _choose(values, order, number, diversity, rank_by, groups_for(min(number, NUM_CLASSES)))

    def is_too_much(number: int) -> bool:
        return bool(tokens[choose(number).places].sum() > max_tokens)

    number = bisect.bisect_left(range(1, len(order) + 1), True, key=is_too_much)
    if number == 0:
        raise ValueError(
            f"`max_tokens` must have room for the one row that the quotas choose, got {int(max_tokens):,}. Raise it."
        )
    return choose(number)


def _until_full(places: Iterable[int], tokens: Floats, max_tokens: float) -> Iterator[int]:
    """Yield places until the next one would pass the budget."""
    total = 0.0
    for place in places:
        total += float(tokens[place])
        if total > max_tokens:
            return
        yield place


def _group_counts(groups: Groups | None, places: Ints) -> dict[str, dict[str, int]]:
    """Count the candidates of each group, and those kept, in order or largest group first; empty without groups."""
    if groups is None:
        return {}
    candidates, kept = Counter(groups.names), Counter(groups.names[place] for place in places)
    names = groups.in_order or [name for name, _ in candidates.most_common()]
    return {name: {"candidates": candidates[name], "kept": kept[name]} for name in names}
