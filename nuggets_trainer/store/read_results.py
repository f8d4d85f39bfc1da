"""Reads the files that a scoring run leaves: scores, anchors, pairs, run.json, rows.parquet. Knows no figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nuggets_trainer.store.files import Place, join, list_directory, open_binary, read_bytes
from nuggets_trainer.store.parquet import read_table
from nuggets_trainer.store.run_info import ROWS_FILE, RUN_FILE

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

BLOCK = 16384  # rows of pairs in memory at once
NUMBERS = ("golden_score", "standard_error", "mean_gain", "upper_bound")
COUNTS = ("num_anchors", "rank")
BY_SET = "golden_score_"  # and the name of the set


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class ScoreTable:
    """scores.parquet as arrays `(n,)`: NaN for null, 0 for no rank.

    Attributes:
        reason: code of the reason why a row was dropped, -1 where it was not.
        reasons: what the codes stand for.
        by_set: golden scores on each of several anchor sets, `(n,)` each; empty where there is one.
    """

    golden_score: Floats
    standard_error: Floats
    mean_gain: Floats
    upper_bound: Floats
    num_anchors: Ints
    rank: Ints
    selected: Bools
    reason: npt.NDArray[np.int32]
    reasons: list[str]
    by_set: dict[str, Floats]

    def __len__(self) -> int:
        return len(self.rank)

    @property
    def complete(self) -> Bools:
        """Rows with a golden score."""
        return ~np.isnan(self.golden_score)

    @property
    def eliminated(self) -> Bools:
        """Rows that a race left before their last anchor."""
        return ~np.isnan(self.upper_bound)

    @property
    def best_known(self) -> Floats:
        """Golden score, or of an eliminated row what it could have had at most."""
        return np.where(self.complete, self.golden_score, self.upper_bound)


def read_run(score_dir: Place) -> dict[str, Any]:
    """Return what is in run.json.

    Raises:
        FileNotFoundError: if it is not there, with what to do; so do the other functions.
    """
    run: dict[str, Any] = json.loads(_read(score_dir, RUN_FILE))
    return run


def read_scores(score_dir: Place) -> ScoreTable:
    """Return what is in scores.parquet."""
    table = _table(score_dir, "scores.parquet")
    dropped = table["dropped"].combine_chunks().dictionary_encode()
    return ScoreTable(
        **{name: table[name].to_numpy().astype(np.float64) for name in NUMBERS},
        **{name: table[name].fill_null(0).to_numpy() for name in COUNTS},
        selected=table["selected"].to_numpy(),
        reason=dropped.indices.fill_null(-1).to_numpy(zero_copy_only=False),
        reasons=dropped.dictionary.to_pylist(),
        by_set={
            name.removeprefix(BY_SET): table[name].to_numpy().astype(np.float64)
            for name in table.column_names
            if name.startswith(BY_SET)
        },
    )


def read_anchors(score_dir: Place) -> list[dict[str, Any]]:
    """Return the rows of anchors.parquet."""
    rows: list[dict[str, Any]] = _table(score_dir, "anchors.parquet").to_pylist()
    return rows


def read_shown_rows(score_dir: Place) -> pa.Table:
    """Return what is in rows.parquet."""
    return _table(score_dir, ROWS_FILE)


def read_pairs(score_dir: Place) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the log-probs of pairs.parquet in blocks of rows `(b, m)`, NaN where not scored."""
    with open_binary(join(score_dir, "pairs.parquet")) as file:
        # Without a buffer a whole column of a row group would be held.
        table = pq.ParquetFile(file, buffer_size=1 << 20)
        for batch in table.iter_batches(BLOCK, columns=["one_shot"], use_threads=False):
            values = batch.column(0).flatten().to_numpy(zero_copy_only=False)
            yield values.astype(np.float32, copy=False).reshape(batch.num_rows, -1)


def read_optional(score_dir: Place, name: str) -> Any:
    """Return what is in a JSON file; None if there is none, or a torn one that another job is writing."""
    try:
        return json.loads(read_bytes(join(score_dir, name)))
    except (FileNotFoundError, ValueError):
        return None


def reselections(score_dir: Place) -> list[tuple[int, Place]]:
    """Step and place of the scores of each choice during training, in order."""
    steps = sorted(
        int(number)
        for name, is_file in list_directory(score_dir).items()
        if not is_file and (number := name.removeprefix("step-")).isdecimal() and number != name
    )
    places = [(step, join(score_dir, f"step-{step}")) for step in steps]
    return [(step, place) for step, place in places if "scores.parquet" in list_directory(place)]


def _table(score_dir: Place, name: str) -> pa.Table:
    return read_table(_read(score_dir, name))


def _read(score_dir: Place, name: str) -> bytes:
    try:
        return read_bytes(join(score_dir, name))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{score_dir} has no {name}, which a scoring run writes at its end. Expected the `score_dir` of a run "
            "that is over; one that an older version wrote is completed by the same run again, which computes nothing."
        ) from error
