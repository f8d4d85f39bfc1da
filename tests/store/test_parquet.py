"""A parquet file in memory is read without threads that are still there when the interpreter ends."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nuggets_trainer.store.parquet import read_table
from tests.support.launch import ROOT, environment

TABLE = pa.table({"score": [0.5, None, 1.0], "name": pa.array(["a", "b", "a"]).dictionary_encode()})
COUNT = """
import os, sys
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
from nuggets_trainer.store.parquet import read_table

content = Path(sys.argv[1]).read_bytes()
counts = [len(os.listdir("/proc/self/task"))]
for read in (read_table, lambda content: pq.read_table(pa.BufferReader(content))):
    assert read(content).num_rows == 3
    counts.append(len(os.listdir("/proc/self/task")))
print(*counts)
"""


@pytest.fixture
def content() -> bytes:
    sink = io.BytesIO()
    pq.write_table(TABLE, sink, compression="zstd")
    return sink.getvalue()


def test_the_table_is_the_one_that_was_written(content):
    table = read_table(content)
    assert table.schema.equals(TABLE.schema) and table.equals(TABLE)


def test_a_torn_file_is_an_error(content):
    for torn in (content[:-9], b"", content[:4]):
        with pytest.raises((pa.ArrowInvalid, OSError)):
            read_table(torn)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux lists them")
def test_it_starts_no_threads(content, tmp_path):
    """Arrow's own function does: in about a quarter of processes that end at once they abort the process."""
    (tmp_path / "x.parquet").write_bytes(content)
    command = [sys.executable, "-c", COUNT, str(tmp_path / "x.parquet")]
    shown = subprocess.run(command, check=True, env=environment(), cwd=ROOT, capture_output=True, text=True).stdout
    before, ours, arrows = map(int, shown.split())
    assert ours == before < arrows
