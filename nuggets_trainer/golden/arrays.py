"""Types of the arrays of this room, and blocks of rows for arrays that may lie in a file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.floating]
LogProbs = npt.NDArray[np.float32]

ROWS_AT_ONCE = 65536


def row_blocks(num_rows: int) -> Iterator[slice]:
    """Yield slices that cover the rows of an array in order, few enough at a time to hold in memory.

    Example:
        >>> list(row_blocks(100_000))
        [slice(0, 65536, None), slice(65536, 131072, None)]
    """
    for start in range(0, num_rows, ROWS_AT_ONCE):
        yield slice(start, start + ROWS_AT_ONCE)
