"""Classes of rows by length: with a quota for each class, a golden set has the lengths of its pool."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nuggets_trainer.golden.arrays import Floats

# With 10 classes, the share of kept rows up to any length differs from that of the pool by at most about 0.1, or 0.2
# if many rows are equally long, however strongly scores depend on length. On two real pools it differed by 0.04 for
# the best tenth, by 0.06 to 0.07 for as many random rows, and by 0.3 to 0.5 without classes. More classes leave less
# to choose from (docs/log/comparison.md).
NUM_CLASSES = 10
UNKNOWN_LENGTH = "unknown length"


def length_classes(lengths: Floats, num_kept: int) -> list[str]:
    """Name the class of each row by its length: shortest tenth, second tenth, and so on.

    The classes are bounded by quantiles of the lengths. All rows of one length are in one class, that of the middle
    one of them. So there are fewer and larger classes if many rows are equally long. If the first one decided, half of
    a pool could be in one class with some shorter rows, and these could take all places of the class. If fewer than
    10 rows are kept, there are as many classes as rows. Rows without a length are a class of their own.

    Args:
        lengths: length of each row, `(n,)`, in tokens; NaN where it is not known.
        num_kept: number of rows to keep.

    Returns:
        Name of each row's class, `(n,)`: the lengths of its shortest and its longest row.

    Example:
        >>> length_classes(np.array([5.0, 90.0, 7.0, 30.0]), 2)
        ['5 to 7 tokens', '30 to 90 tokens', '5 to 7 tokens', '30 to 90 tokens']
    """
    known = np.sort(lengths[~np.isnan(lengths)])
    num_shorter, num_up_to = np.searchsorted(known, lengths), np.searchsorted(known, lengths, side="right")
    place = (num_shorter + num_up_to) * min(NUM_CLASSES, num_kept) // max(1, 2 * len(known))
    names = np.full(len(lengths), UNKNOWN_LENGTH, dtype=object)
    for own in np.unique(place[~np.isnan(lengths)]):
        rows = (place == own) & ~np.isnan(lengths)
        names[rows] = _name(lengths[rows].min(), lengths[rows].max())
    return list(names)


def classes_in_order(names: Sequence[str], lengths: Floats) -> list[str]:
    """Return the names of the classes, that of the shortest rows first; rows without a length come last.

    Args:
        names: name of each row's class, `(n,)`, from `length_classes`.
        lengths: length of each row, `(n,)`.
    """
    length_of = dict(zip(names, np.nan_to_num(lengths, nan=np.inf).tolist(), strict=True))
    return sorted(length_of, key=length_of.__getitem__)


def _name(shortest: float, longest: float) -> str:
    if shortest == longest:
        return f"{shortest:,.0f} tokens"
    return f"{shortest:,.0f} to {longest:,.0f} tokens"
