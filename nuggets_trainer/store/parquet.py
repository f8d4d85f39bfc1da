"""The table in a parquet file's bytes, read on the calling thread."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq


def read_table(content: bytes) -> pa.Table:
    """Read all columns of a parquet file that is in memory.

    `pq.read_table` is no alternative: its threads may still hold `content` when the interpreter ends. Releasing it
    then aborts the process (exit code 134) although all its work is done.

    Raises:
        pyarrow.ArrowInvalid, OSError: if the bytes are not a whole parquet file.
    """
    return pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
