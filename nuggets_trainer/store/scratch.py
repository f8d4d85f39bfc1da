"""Arrays that may not fit in memory: large ones live in a temporary file.

A pool of 10 million rows and 100 anchors has a billion log-probs. The operating system writes pages of such a file to
disk when it needs their memory. The file has no name: it disappears with the array, also if the process is killed.
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
        score_dir: local directory with room for the files; for a URL the system's temporary directory is used.
    """

    def __init__(self, score_dir: str | Path) -> None:
        local = local_path(score_dir)
        self._directory = local or Path(tempfile.gettempdir())

    def full(self, shape: tuple[int, ...], value: Any, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return an array that holds `value` everywhere, as `np.full` does.

        Raises:
            OSError: if there is no room; the error says what to do.
        """
        dtype = np.dtype(dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        if size <= IN_MEMORY_BYTES:
            return np.full(shape, value, dtype=dtype)
        block = np.full(min(size, BLOCK_BYTES) // dtype.itemsize, value, dtype=dtype)
        with tempfile.TemporaryFile(dir=self._directory) as file:
            try:
                # On a full disk a write raises an error, but touching a mapped page kills the process.
                for start in range(0, size, block.nbytes):
                    file.write(block.data.cast("B")[: min(block.nbytes, size - start)])
                file.flush()
            except OSError as error:
                raise explain_full(error, self._directory) from error
            return np.memmap(file, dtype=dtype, mode="r+", shape=shape)
