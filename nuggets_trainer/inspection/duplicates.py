"""Rows that repeat another row of the pool, its prompt, or an anchor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import Row
from nuggets_trainer.inspection.facts import Repeats
from nuggets_trainer.pipeline.diversity import prompt_numbers

NUM_GROUPS, NUM_OF_GROUP = 3, 4  # groups that are named, and rows of each


def exact_repeats(keys: Sequence[str]) -> Repeats:
    """Find rows with equal content.

    Args:
        keys: content hash of each row; "" for a row that cannot be read.

    Example:
        >>> exact_repeats(["a", "b", "a", "", "", "a"])
        Repeats(num_rows=2, num_groups=1, examples=((0, 2, 5),))
    """
    groups: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        if key:
            groups.setdefault(key, []).append(i)
    return _repeats(groups.values())


def near_repeats(first_of: Mapping[int, int] | None) -> dict[str, Repeats]:
    """Group near-duplicates.

    Args:
        first_of: pool index of the earlier row, by that of its near-duplicate; None if near-duplicates were not
            searched.

    Returns:
        The groups under `near`; {} if near-duplicates were not searched.

    Example:
        >>> near_repeats({3: 0, 5: 0})
        {'near': Repeats(num_rows=2, num_groups=1, examples=((0, 3, 5),))}
    """
    if first_of is None:
        return {}
    groups: dict[int, list[int]] = {}
    for i, first in sorted(first_of.items()):
        groups.setdefault(first, [first]).append(i)
    return {"near": _repeats(groups.values())}


def same_prompts(pool: Pool) -> dict[str, Repeats]:
    """Group usable rows with the same prompt, as `max_rows_per_prompt` does.

    Returns:
        The groups under `prompt`; {} if all prompts are different.
    """
    numbers = prompt_numbers(pool)
    rows = np.array(pool.usable_indices(), dtype=np.int64)
    rows = rows[numbers[rows] >= 0]  # a row without a prompt has a negative number
    counts = np.bincount(numbers[rows])
    groups: dict[int, list[int]] = {}
    for i in rows[counts[numbers[rows]] > 1].tolist():
        groups.setdefault(int(numbers[i]), []).append(i)
    if not groups:
        return {}
    return {"prompt": _repeats(groups.values())}


def _repeats(groups: Iterable[list[int]]) -> Repeats:
    repeated = [group for group in groups if len(group) > 1]
    num_rows = sum(map(len, repeated)) - len(repeated)
    examples = [tuple(group[:NUM_OF_GROUP]) for group in repeated[:NUM_GROUPS]]
    return Repeats(num_rows, len(repeated), tuple(examples))


def same_texts(pool: Pool, anchors: Sequence[Row]) -> int:
    """Count the rows of a pool that have the text of an anchor."""
    texts = {anchor.text_key for anchor in anchors}
    keys, _ = pool.read_keys()
    return sum(pool.texts.get(key) in texts for key in keys)
