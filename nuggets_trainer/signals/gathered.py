"""A value of each row that every process computes for some rows, as one column on the main process."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from nuggets_trainer.scoring.session import ScoringSession


def gather_column(
    session: ScoringSession, compute_own: Callable[[], list[tuple[int, float]]]
) -> npt.NDArray[np.float64] | None:
    """Gather a value of each row from the processes that compute it; all ranks must call it.

    Args:
        session: open session of the pool.
        compute_own: function that returns pool index and value of each row of this rank; an error of one rank is
            raised on all.

    Returns:
        Column `(n,)` over the pool's rows, NaN for rows without a value, on the main process; None on the others.
    """
    found = session.ranks.gather_from(compute_own)
    if not session.ranks.is_main:
        return None
    column = np.full(len(session.pool), np.nan)
    for i, value in found:
        column[i] = value
    return column
