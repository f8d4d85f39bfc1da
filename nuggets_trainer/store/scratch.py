"""Arrays that may not fit in memory: large ones live in a temporary file. Knows nothing of what is in them.

A pool of 10 million rows and 100 anchors has a billion log-probs. The system writes pages of such a file out when it
needs their memory; the file has no name and goes with the array, also when the process is killed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nuggets_trainer.store.files import explain_full, local_path

IN_MEMORY_BYTES = 2**28  # arrays up to this size stay in memory
BLOCK_BYTES = 2**24


class Scratch:
    """Makes arrays, the large ones in files beside a score store.

    Args:
        score_dir: local directory with room for them; for a URL the system's temporary directory is taken.
    """

    def __init__(self, score_dir: str | Path) -> None:
        local = local_path(score_dir)
        self._directory = Path(tempfile.gettempdir()) if local is None else local

    def full(self, shape: tuple[int, ...], value: Any, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return an array that holds `value` everywhere, as `np.full` does.

        Raises:
            OSError: if there is no room, with what to do.
        """
        dtype = np.dtype(dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        if size <= IN_MEMORY_BYTES:
            return np.full(shape, value, dtype=dtype)
        block = np.full(min(size, BLOCK_BYTES) // dtype.itemsize, value, dtype=dtype)
        with tempfile.TemporaryFile(dir=self._directory) as file:
            try:
                # Written, not mapped: on a full disk a write gives an error and a touched page kills the process.
                for start in range(0, size, block.nbytes):
                    file.write(block.data.cast("B")[: min(block.nbytes, size - start)])
                file.flush()
            except OSError as error:
                raise explain_full(error, self._directory) from error
            return np.memmap(file, dtype=dtype, mode="r+", shape=shape)
