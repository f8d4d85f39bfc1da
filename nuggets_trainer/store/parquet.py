"""The table in a parquet file's bytes, read on the calling thread. Knows no columns."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq


def read_table(content: bytes) -> pa.Table:
    """Read all columns of a parquet file that is in memory.

    Not through `pq.read_table`: its threads may still hold `content` when the interpreter ends, and giving that back
    then aborts the process (exit code 134), with all its work done.

    Raises:
        pyarrow.ArrowInvalid, OSError: if it is not a whole parquet file.
    """
    return pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
