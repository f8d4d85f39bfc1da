"""Write rows of a pool to a file that keeps their types: .parquet, .jsonl, .json or .csv."""

from __future__ import annotations

import datetime
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset

    from nuggets_trainer.golden.selection import GoldenSet

ENDINGS = (".parquet", ".jsonl", ".json", ".csv")


def check_output_file(file: str) -> None:
    """Refuse a type of file that rows cannot be written to, before any work.

    Raises:
        ValueError: if the name has another ending than `ENDINGS`.
    """
    if Path(file).suffix not in ENDINGS:
        raise ValueError(f"`output_file` must end in {', '.join(ENDINGS)}, got {file!r}.")


def write_rows(dataset: Dataset, golden_set: GoldenSet, file: str, with_scores: bool = False) -> None:
    """Write the rows of the golden set in the columns of the pool, best row first.

    Dates are written as ISO 8601 text, and a column of whole days without a time of day. A `.json` file is one array,
    a `.jsonl` file has one object per line.

    Args:
        dataset: rows of the pool.
        golden_set: rows to write.
        file: path of the file.
        with_scores: whether the rows get the columns of `_score_columns`.

    Raises:
        ValueError: if the type of file cannot hold what a column has, or if the pool has a column of a score's name.
    """
    rows = dataset.select(golden_set.indices)
    if with_scores:
        for name, values in _score_columns(golden_set).items():
            if name in rows.column_names:
                raise ValueError(
                    f"`with_scores` adds a column {name!r}, but the pool has one of that name. Rename it in the pool."
                )
            rows = rows.add_column(name, values)
    path = Path(file)
    _check_types(rows, file)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        rows.to_parquet(file)
    elif path.suffix == ".csv":
        rows.to_csv(file)
    else:
        path.write_text(_as_json_text(rows, one_array=path.suffix == ".json"), encoding="utf-8")


def _score_columns(golden_set: GoldenSet) -> dict[str, Any]:
    """Return rank, pool index, value and standard error of the rows kept. A signal of a row has no standard error."""
    ranked, indices = golden_set.ranked, golden_set.indices
    columns = {"rank": np.arange(1, len(indices) + 1), "pool_index": indices, ranked.name: golden_set.value}
    if ranked.error:
        columns[ranked.error] = golden_set.value_error
    return columns


def _check_types(rows: Dataset, file: str) -> None:
    """Refuse nested columns in CSV, and bytes and the like outside of Parquet."""
    from datasets import Value  # late: a config file may set variables that datasets reads when it is imported

    ending = Path(file).suffix
    nested = [name for name, feature in rows.features.items() if not isinstance(feature, Value)]
    if ending == ".csv" and nested:
        raise ValueError(
            f"`output_file={file!r}` cannot hold the columns {', '.join(nested)}: CSV has no lists or records. Write "
            "a .parquet or .jsonl file."
        )
    binary = [name for name, feature in rows.features.items() if "binary" in str(feature)]
    if ending != ".parquet" and binary:
        raise ValueError(
            f"`output_file={file!r}` cannot hold the columns {', '.join(binary)}: they are bytes. Write a .parquet "
            "file."
        )


def _as_json_text(rows: Dataset, one_array: bool) -> str:
    days = _columns_of_days(rows)
    lines = []
    for row in rows:
        values = {name: _plain(value, name in days) for name, value in row.items()}
        lines.append(json.dumps(values, ensure_ascii=False))
    if one_array:
        return "[\n" + ",\n".join(lines) + "\n]\n"
    return "".join(f"{line}\n" for line in lines)


def _columns_of_days(rows: Dataset) -> set[str]:
    """Names of the columns whose times are all at midnight: a reader made them of dates."""
    from datasets import Value

    found = set()
    for name, feature in rows.features.items():
        if isinstance(feature, Value) and feature.dtype.startswith("timestamp"):
            times = [value for value in rows[name] if value is not None]
            if all(value.time() == datetime.time() for value in times):
                found.add(name)
    return found


def _plain(value: Any, is_day: bool) -> Any:
    """Turn a value into what JSON has: dates into text, numbers that are not finite into null."""
    if isinstance(value, dict):
        return {key: _plain(inner, False) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner, False) for inner in value]
    if isinstance(value, datetime.datetime) and is_day:
        return value.date().isoformat()
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
