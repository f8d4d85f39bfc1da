"""Lengths of many rows in a few numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nuggets_trainer.inspection.facts import LengthFact


def summed_up(of: str, lengths: Sequence[int]) -> LengthFact:
    """Summarise lengths in a few numbers.

    Args:
        of: part that is measured.
        lengths: length of each row; at least one.

    Example:
        >>> summed_up("row", [3, 5, 40])
        LengthFact(of='row', num_rows=3, shortest=3, median=5, percentile_95=40, longest=40, total=48)
    """
    # `higher` gives lengths that occur, not values between two of them.
    median, percentile_95 = np.percentile(lengths, [50, 95], method="higher")
    return LengthFact(
        of, len(lengths), min(lengths), int(median), int(percentile_95), max(lengths), sum(map(int, lengths))
    )
