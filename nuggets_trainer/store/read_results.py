"""The one reader of what a scoring run leaves: scores, anchors, pairs, run.json, rows.parquet.

Files that earlier versions wrote are read too. An error about a missing file or column names the command that writes
it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nuggets_trainer.config.places import score_dir_of_job
from nuggets_trainer.config.requirement import BY_SET, ROW_SIGNALS
from nuggets_trainer.golden.arrays import Bools, Floats, Ints
from nuggets_trainer.store.files import Place, join, list_directory, open_binary, read_bytes
from nuggets_trainer.store.parquet import read_table
from nuggets_trainer.store.results import ANCHORS_FILE, MEETS_REQUIRE, PAIRS_FILE, SCORES_FILE
from nuggets_trainer.store.run_info import RUN_FILE
from nuggets_trainer.store.shown_rows import ROWS_FILE
from nuggets_trainer.store.stored_scores import StoredScores

if TYPE_CHECKING:
    from nuggets_trainer.data.pool import Pool


BLOCK = 16384  # rows of pairs in memory at once
SIGNAL_CHECK_FILE = "signal_check.json"
NEEDED = ("golden_score", "standard_error", "mean_gain", "num_anchors", "upper_bound", "dropped", "rank", "selected")


def read_scores(score_dir: Place) -> StoredScores:
    """Read scores.parquet.

    Raises:
        FileNotFoundError: if it is not there; the error says what to run.
        ValueError: if it lacks columns that this package writes.
    """
    table = _table(score_dir, SCORES_FILE)
    missing = sorted(set(NEEDED) - set(table.column_names))
    if missing:
        raise ValueError(
            f"{join(score_dir, SCORES_FILE)} has no columns {missing}: this version of nuggets_trainer did not write "
            "it. Run the `nuggets score` that made it again: it reads the stored pairs and writes the file anew."
        )
    dropped = table["dropped"].combine_chunks().dictionary_encode()
    set_names = [name.removeprefix(BY_SET) for name in table.column_names if name.startswith(BY_SET)]
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    return StoredScores(
        golden_score=_floats(table, "golden_score"),
        standard_error=_floats(table, "standard_error"),
        mean_gain=_floats(table, "mean_gain"),
        num_anchors=_counts(table, "num_anchors"),
        mean_gain_error=_floats(table, "mean_gain_error"),
        gain=_floats(table, "gain"),
        gain_error=_floats(table, "gain_error"),
        upper_bound=_floats(table, "upper_bound"),
        rank=_counts(table, "rank"),
        selected=table["selected"].to_numpy(),
        reason=dropped.indices.fill_null(-1).to_numpy(zero_copy_only=False),
        reasons=dropped.dictionary.to_pylist(),
        signals={name: _floats(table, name) for name in ROW_SIGNALS if name in table.column_names},
        meets_require=_truths(table, MEETS_REQUIRE),
        by_set={name: _floats(table, BY_SET + name) for name in set_names},
        pool_sha256=metadata.get("pool_sha256"),
        pool_format=metadata.get("pool_format"),
    )


def are_scored_rows(scores: StoredScores, pool_sha256: str, pool: Pool) -> bool:
    """Check whether a pool has the rows that were scored, each at its pool index.

    Results of an earlier version hold a hash that does not see where unreadable rows stand. Their `dropped` column
    shows the places.

    Args:
        scores: stored scores.
        pool_sha256: stored content hash of the rows that were scored.
        pool: rows to compare with them.
    """
    if len(pool) != len(scores):
        return False
    if pool_sha256 == pool.content_hash:
        return True
    if pool_sha256 != pool.hash_without_places:
        return False
    reasons = set(pool.unreadable.values())
    places = {}
    for i in np.flatnonzero(scores.reason >= 0).tolist():
        reason = scores.reasons[scores.reason[i]]
        if reason in reasons:
            places[i] = reason
    return places == pool.unreadable


def check_same_pool(stored: StoredScores, pool: Pool) -> str | None:
    """Check that rows are those that were scored.

    Args:
        stored: scores of an earlier run.
        pool: the rows.

    Returns:
        What could not be checked; None if all was.

    Raises:
        ValueError: if there are more or fewer rows, or others.
    """
    if len(pool) != len(stored.upper_bound):
        raise ValueError(
            f"`dataset_name` has {len(pool):,} rows, but {len(stored.upper_bound):,} were scored. Name the pool "
            "that was scored, with its `dataset_config`, `dataset_train_split` and `pool_size`."
        )
    if stored.pool_sha256 is None or stored.pool_format != pool.format:
        return (
            "The rows were compared with the scored ones by their number only, not by their content. They must be the "
            "same rows in the same order."
        )
    if not are_scored_rows(stored, stored.pool_sha256, pool):
        raise ValueError(
            f"`dataset_name` has as many rows as were scored, but not the same ones in the same order (content hash "
            f"{pool.content_hash}, scored {stored.pool_sha256}). Name the pool that was scored. Or score these rows: "
            "`nuggets score` on the same `score_dir` computes only what is not stored."
        )
    return None


def _floats(table: pa.Table, column: str) -> Floats:
    """Return a column as float64, NaN for null; all NaN if an earlier version wrote the table without it."""
    if column not in table.column_names:
        return np.full(len(table), np.nan)
    return np.asarray(table[column].to_numpy(), dtype=np.float64)


def _truths(table: pa.Table, column: str) -> Bools | None:
    """Return a column of truth values, False for null; None if the table does not have it."""
    if column not in table.column_names:
        return None
    return np.asarray(table[column].fill_null(False).to_numpy())


def _counts(table: pa.Table, column: str) -> Ints:
    """Return a column of integers, 0 for null."""
    return np.asarray(table[column].fill_null(0).to_numpy())


def read_run_info(score_dir: Place) -> dict[str, Any]:
    """Read run.json.

    Raises:
        FileNotFoundError: if it is not there; the error says what to run.
    """
    run: dict[str, Any] = json.loads(_read(score_dir, RUN_FILE))
    return run


def read_config(score_dir: Place) -> dict[str, Any]:
    """Return the configuration of the run, from run.json; empty if it is not there.

    Scores may exist without that file: a run writes it after them, and only warns if it cannot.
    """
    run = read_optional(score_dir, RUN_FILE)
    config = run.get("config") if isinstance(run, dict) else None
    return config if isinstance(config, dict) else {}


def read_overlap(score_dir: Place) -> dict[str, Any]:
    """Return what the pool has twice and shares with tests, from run.json; empty if no run has looked for it."""
    run = read_optional(score_dir, RUN_FILE)
    found = run.get("overlap") if isinstance(run, dict) else None
    return found if isinstance(found, dict) else {}


def read_scored_anchors(score_dir: Place) -> list[dict[str, Any]]:
    """Read anchors.parquet: one dict per anchor.

    Raises:
        FileNotFoundError: if it is not there; the error says what to run.
    """
    rows: list[dict[str, Any]] = _table(score_dir, ANCHORS_FILE).to_pylist()
    return rows


def read_shown_rows(score_dir: Place) -> pa.Table:
    """Read rows.parquet: texts and lengths of some rows.

    Raises:
        FileNotFoundError: if it is not there; the error says what to run.
    """
    return _table(score_dir, ROWS_FILE)


def read_pairs(score_dir: Place) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the log-probs of pairs.parquet in blocks of rows `(b, m)`; NaN for pairs that were not scored.

    Raises:
        FileNotFoundError: if it is not there; the error says what to run.
    """
    try:
        opened = open_binary(join(score_dir, PAIRS_FILE))
    except FileNotFoundError as error:
        raise _missing(score_dir, PAIRS_FILE) from error
    with opened as file:
        # Without a buffer, a whole column of a row group would be held in memory.
        table = pq.ParquetFile(file, buffer_size=1 << 20)
        for batch in table.iter_batches(BLOCK, columns=["one_shot"], use_threads=False):
            values = batch.column(0).flatten().to_numpy(zero_copy_only=False)
            yield values.astype(np.float32, copy=False).reshape(batch.num_rows, -1)


def read_log_probs(score_dir: Place) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Read all log-probs into memory: zero-shot `(m,)` and one-shot `(n, m)`; NaN for what was not scored."""
    anchors = _table(score_dir, ANCHORS_FILE)
    zero_shot = _floats(anchors, "zero_shot").astype(np.float32)
    one_shot = np.concatenate([*read_pairs(score_dir), np.empty((0, len(zero_shot)), dtype=np.float32)])
    return zero_shot, one_shot


def read_optional(score_dir: Place, name: str) -> Any:
    """Read a JSON file; None if there is none, or if it is torn because another job is writing it."""
    try:
        return json.loads(read_bytes(join(score_dir, name)))
    except (FileNotFoundError, ValueError):
        return None


def read_signal_check(score_dir: Place, run: Any) -> dict[str, Any] | None:
    """Read signal_check.json if it is about the scorer of a run: one of another scorer may lie in the directory.

    Args:
        score_dir: directory of the scores.
        run: content of run.json; None if there is none.

    Returns:
        The content; None if the check was not made for this scorer.
    """
    check = read_optional(score_dir, SIGNAL_CHECK_FILE)
    if not isinstance(check, dict) or not isinstance(run, dict):
        return None
    return check if check.get("fingerprint") == run["fingerprint"]["id"] else None


def reselections(score_dir: Place) -> list[tuple[int, Place]]:
    """Return step and directory of each selection during training that has scores, in order."""
    found = []
    for name, is_file in list_directory(score_dir).items():
        number = name.removeprefix("step-")
        if is_file or number == name or not number.isdecimal():
            continue
        place = join(score_dir, name)
        if SCORES_FILE in list_directory(place):
            found.append((int(number), place))
    return sorted(found, key=lambda item: item[0])


def _table(score_dir: Place, name: str) -> pa.Table:
    return read_table(_read(score_dir, name))


def _read(score_dir: Place, name: str) -> bytes:
    try:
        return read_bytes(join(score_dir, name))
    except FileNotFoundError as error:
        raise _missing(score_dir, name) from error


def _missing(score_dir: Place, name: str) -> FileNotFoundError:
    of_job = score_dir_of_job(str(score_dir))
    if list_directory(score_dir).get("nuggets") is False and name in list_directory(of_job):
        return FileNotFoundError(
            f"There is no {join(score_dir, name)}. {str(score_dir)!r} is the `output_dir` of a training job, which "
            f"has its scores in {of_job!r}. Name that directory."
        )
    command = f"nuggets score --score_dir {shlex.quote(str(score_dir))} ..."
    return FileNotFoundError(
        f"There is no {join(score_dir, name)}. Name the `score_dir` of a finished run: a run writes this file at its "
        f"end. `{command}` scores a pool. If an earlier version did so there, the same command writes the file "
        "without computing anything again."
    )
