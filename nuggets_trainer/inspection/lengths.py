"""Lengths of many rows in a few numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nuggets_trainer.inspection.facts import LengthFact


def summed_up(of: str, lengths: Sequence[int]) -> LengthFact:
    """Describe lengths; at least one.

    Args:
        of: what is measured.
        lengths: length of each row.

    Example:
        >>> summed_up("row", [3, 5, 40])
        LengthFact(of='row', num_rows=3, shortest=3, median=5, percentile_95=40, longest=40, total=48)
    """
    # Lengths that occur, not values between two of them.
    median, percentile_95 = np.percentile(lengths, [50, 95], method="higher")
    return LengthFact(
        of, len(lengths), min(lengths), int(median), int(percentile_95), max(lengths), sum(map(int, lengths))
    )
