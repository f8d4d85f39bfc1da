"""Conversion of batches of other projects: rows -> `Dataset`, and new columns -> a batch of the same type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from datasets import Dataset

Columns = dict[str, Any]  # each column by name, a list or an array of the batch's length


def read_batch(batch: Any) -> Dataset:
    """Read a batch as a dataset.

    Args:
        batch: mapping of columns, list of rows, `pyarrow.Table`, `pyarrow.RecordBatch`, `pandas.DataFrame` or
            `Dataset`.

    Raises:
        TypeError: if it is none of these.
    """
    if isinstance(batch, Dataset):
        return batch
    if isinstance(batch, (pa.Table, pa.RecordBatch)):
        return Dataset.from_dict(batch.to_pydict())
    if isinstance(batch, pd.DataFrame):
        return Dataset.from_dict({str(name): _without_nan(batch[name]) for name in batch.columns})
    if isinstance(batch, Mapping):
        return Dataset.from_dict({name: _as_list(values) for name, values in batch.items()})
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        names = dict.fromkeys(name for row in batch for name in row)
        return Dataset.from_dict({name: [row.get(name) for row in batch] for name in names})
    raise TypeError(
        "A batch must be a mapping of columns, a list of rows, a pyarrow Table or RecordBatch, a pandas DataFrame or "
        f"a Dataset, got {type(batch).__name__}."
    )


def _without_nan(column: pd.Series[Any]) -> list[Any]:
    """Return a column of a DataFrame with None for what pandas has in place of a missing value: NaN, NA or NaT."""
    missing = column.isna().to_numpy()
    values = _as_list(column.to_numpy(dtype=object))
    return [None if is_missing else value for value, is_missing in zip(values, missing, strict=True)]


def _as_list(values: Any) -> list[Any]:
    """Return a column as plain lists: in Ray and pandas a list in a row is an array."""
    if isinstance(values, np.ndarray):
        return [_plain(value) for value in values.tolist()]
    return [_plain(value) for value in values]


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _as_list(value)
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return value


def num_rows(batch: Any) -> int:
    """Count the rows of a batch of any kind."""
    if isinstance(batch, (pa.Table, pa.RecordBatch)):
        return int(batch.num_rows)
    if isinstance(batch, Mapping) and not isinstance(batch, pd.DataFrame):
        return len(next(iter(batch.values()), ()))
    return len(batch)


def with_columns(batch: Any, columns: Columns) -> Any:
    """Add columns to a batch, and return it as the same type.

    Args:
        batch: batch of any type that `read_batch` takes.
        columns: further columns; None in place of a missing text.
    """
    if isinstance(batch, (pa.Table, pa.RecordBatch)):
        for name, values in columns.items():
            kind = pa.string() if values.dtype == object else None
            batch = batch.append_column(name, pa.array(values, type=kind, from_pandas=False))
        return batch
    if isinstance(batch, pd.DataFrame):
        return batch.assign(**columns)
    if isinstance(batch, Dataset):
        for name, values in columns.items():
            batch = batch.add_column(name, values.tolist())
        return batch
    if isinstance(batch, Mapping):
        return {**batch, **columns}
    lists = {name: values.tolist() for name, values in columns.items()}
    scored = []
    for place, row in enumerate(batch):
        scored.append({**row, **{name: values[place] for name, values in lists.items()}})
    return scored


def texts(values: Sequence[str | None]) -> npt.NDArray[np.object_]:
    """Return texts as an array that keeps None."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
