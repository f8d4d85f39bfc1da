"""Arrays in files hold what arrays in memory do, in a whole job too, and leave nothing behind."""

from __future__ import annotations

import numpy as np
import pytest

from nuggets_trainer import NuggetsConfig, Pool, score_pool
from nuggets_trainer.store.scratch import Scratch
from tests.support.rows import alpaca_rows

RESULTS = ("scores.parquet", "anchors.parquet", "pairs.parquet")


@pytest.fixture
def in_files(monkeypatch):
    """Put every array into a file, and look at few rows at a time."""
    made = []
    full = Scratch.full

    def recorded(self, shape, value, dtype):
        made.append(full(self, shape, value, dtype))
        return made[-1]

    def switch_on():
        monkeypatch.setattr("nuggets_trainer.store.scratch.IN_MEMORY_BYTES", 0)
        monkeypatch.setattr("nuggets_trainer.store.scratch.BLOCK_BYTES", 100)
        for name in ("scoring.blocks.BLOCK", "golden.arrays.ROWS_AT_ONCE"):
            monkeypatch.setattr(f"nuggets_trainer.{name}", 5)
        monkeypatch.setattr(Scratch, "full", recorded)
        return made

    return switch_on


@pytest.mark.parametrize(
    ("value", "dtype"), [(np.nan, np.float32), (False, np.bool_), (True, np.bool_), (7, np.int64)]
)
def test_an_array_in_a_file_is_one_in_memory(value, dtype, in_files, tmp_path):
    in_files()
    array = Scratch(tmp_path).full((7, 9), value, dtype)
    assert isinstance(array, np.memmap) and not list(tmp_path.iterdir())
    np.testing.assert_array_equal(array, np.full((7, 9), value, dtype))
    array[3, 4] = 0
    assert array[3, 4] == 0 and array.dtype == dtype


def test_an_empty_array_needs_no_file(in_files, tmp_path):
    in_files()
    assert Scratch(tmp_path).full((0, 5), 0, np.float32).shape == (0, 5)


def test_a_url_uses_the_temporary_directory(in_files, tmp_path, monkeypatch):
    in_files()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert isinstance(Scratch("memory://scores").full((3,), 1, np.float32), np.memmap)


@pytest.mark.parametrize("schedule", ["exact", "race"])
def test_arrays_in_files_give_the_same_results(schedule, llama, tokenizer, in_files, tmp_path):
    from datasets import Dataset

    rows = alpaca_rows(40, seed=3)
    rows += rows[:4]  # equal rows share their log-probs
    anchors = Pool(Dataset.from_list([*alpaca_rows(7, seed=4), rows[2]]), "anchors")
    config = NuggetsConfig(top_k=4, schedule=schedule, template="plain", tokens_per_batch=200)

    def score(score_dir):
        return score_pool(llama, tokenizer, Pool(Dataset.from_list(rows)), anchors, config=config, score_dir=score_dir)

    score(tmp_path / "memory")
    made = in_files()
    score(tmp_path / "files")
    assert sum(isinstance(array, np.memmap) for array in made) >= 4
    for name in RESULTS:
        assert (tmp_path / "memory" / name).read_bytes() == (tmp_path / "files" / name).read_bytes()
    left = [{path.name for path in (tmp_path / name).iterdir()} for name in ("memory", "files")]
    assert left[0] == left[1]
