"""A dataset whose rows can be counted: what a pool or anchors can be read from, or an error that says what to pass."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from nuggets_trainer.config.places import RowPlace
from nuggets_trainer.data.unreadable import errors_name_the_file

LOCAL = "nuggets-rows:"  # before a local path, in what a dataset was made of
FEW_ROWS = 5000  # rows that are rewritten within a second, so that a bar for them is noise
READ_AT_ONCE = 500  # rows that are read together: one by one, each takes twenty times as long


@contextlib.contextmanager
def hidden_dataset_bars(hidden: bool = True) -> Iterator[None]:
    """Hide the progress bars of datasets, which are those of the whole process; what was set before is put back.

    Args:
        hidden: whether they are hidden; False changes nothing.
    """
    from datasets import are_progress_bars_disabled, config, disable_progress_bars, enable_progress_bars

    # With the environment variable set, datasets shows or hides its bars by it alone, and warns of attempts.
    if not hidden or are_progress_bars_disabled() or config.HF_DATASETS_DISABLE_PROGRESS_BARS is not None:
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def take_pool(dataset: Any, pool_size: int | None, name: str = "train_dataset") -> Any:
    """Cut a dataset to its first rows; a stream becomes a `Dataset` in memory.

    Args:
        dataset: a `Dataset`, or an `IterableDataset`.
        pool_size: number of rows; None takes all rows of a `Dataset` and refuses a stream.
        name: name of the dataset in errors.

    Raises:
        TypeError: if it is neither, or a stream without `pool_size`.
        ValueError: if it is empty, or a stream breaks off.
    """
    from datasets import IterableDataset

    if pool_size is None:
        return check_dataset(dataset, name)
    if isinstance(dataset, IterableDataset):
        with errors_name_the_file(name):
            rows = list(dataset.take(pool_size))
        return check_dataset(_in_memory(rows, dataset.features), name)
    return check_dataset(dataset, name).select(range(min(pool_size, len(dataset))))


def _in_memory(rows: list[dict[str, Any]], features: Any) -> Any:
    """Return rows as a `Dataset` with the columns of all rows; `Dataset.from_list` takes those of the first alone."""
    from datasets import Dataset

    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return Dataset.from_dict(columns, features=features)


def check_dataset(dataset: Any, name: str) -> Any:
    """Return a map-style `Dataset` that has rows; refuse anything else and say what to pass.

    Raises:
        TypeError: if it is not a `Dataset`.
        ValueError: if it is empty.
    """
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

    if isinstance(dataset, (DatasetDict, IterableDatasetDict)):
        splits = sorted(dataset)
        example = "train" if "train" in splits or not splits else splits[0]
        raise TypeError(
            f"`{name}` must be one split, got {type(dataset).__name__} with the splits {splits}. Pass e.g. "
            f"`dataset[{example!r}]`."
        )
    if isinstance(dataset, IterableDataset):
        raise TypeError(
            f"`{name}` is an IterableDataset, but candidates are ranked against each other, so their number must be "
            "known. Take a limited number of rows into memory: set `pool_size` for a pool, or pass "
            "`nuggets_trainer.data.dataset.take_pool(dataset, n)`."
        )
    if not isinstance(dataset, Dataset):
        raise TypeError(f"`{name}` must be a datasets.Dataset, got {type(dataset).__name__}.")
    if len(dataset) == 0:
        raise ValueError(f"`{name}` is empty. Expected at least one row.")
    return dataset


def hub_sources(dataset: Any) -> dict[str, str]:
    """Return the datasets on the hub that rows were loaded from, each with its commit; empty if they are not known.

    `load_dataset` writes into the info of a dataset what it was made of, and `select`, `map` and the like keep it.
    """
    found = {}
    for place in dataset.info.download_checksums or {}:
        repository = re.match(r"hf://datasets/([^@/]+(?:/[^@/]+)?)@([^/]+)/", place)
        if repository is not None:
            found[repository[1]] = repository[2]
    return found


def remember_source(dataset: Any, place: str) -> Any:
    """Write into a dataset's info from which local file or directory it was loaded; `select` and the like keep it.

    Args:
        dataset: rows that were just loaded.
        place: path of the file or directory, or name of embedded rows.
    """
    # Rows that `save_to_disk` wrote still name the file that they were made of.
    made_of = dataset.info.download_checksums or {}
    kept = {name: made for name, made in made_of.items() if not name.startswith(LOCAL)}
    dataset.info.download_checksums = {**kept, f"{LOCAL}{place}": {}}
    return dataset


def source_of(dataset: Any) -> RowPlace | None:
    """Return where rows were loaded from, if it is one place that is known, so that they can be loaded again."""
    split = "train" if dataset.split is None else str(dataset.split)
    local = [place for place in dataset.info.download_checksums or {} if place.startswith(LOCAL)]
    if len(local) == 1:
        return RowPlace(local[0].removeprefix(LOCAL), split=split)
    repositories = list(hub_sources(dataset))
    if len(repositories) == 1:
        return RowPlace(repositories[0], dataset.info.config_name, split)
    return None


def check_text_alone(dataset: Any, name: str) -> None:
    """Refuse a dataset with the columns in which TRL looks for images.

    Raises:
        ValueError: if it has one; the error names the column.
    """
    images = sorted({"image", "images"} & set(dataset.column_names))
    if images:
        raise ValueError(
            f"`{name}` has the column {images[0]!r}: selection works on text alone. Remove the column if the text is "
            "enough."
        )


def check_not_packed(dataset: Any, name: str) -> None:
    """Refuse tokenized rows that are packed.

    Raises:
        ValueError: if they have columns that only packed rows have.
    """
    packed = sorted({"seq_lengths", "position_ids"} & set(dataset.column_names))
    if packed:
        raise ValueError(
            f"`{name}` is packed (it has the columns {packed}), but a row must be one instruction. Select before "
            "packing: pass the rows as they were before."
        )


def check_sharegpt_keys(record: dict[str, Any], name: str) -> None:
    """Refuse a column `conversations` whose messages have other keys than ShareGPT's.

    Raises:
        ValueError: if the first message of this row has no `from`.
    """
    messages = record["conversations"]
    first = messages[0] if isinstance(messages, list) and messages else None
    if isinstance(first, dict) and "from" not in first:
        option = "anchor_columns" if name == "anchors" else "columns"
        raise ValueError(
            f"`{name}` has a column `conversations` whose messages lack `from` and `value`, but TRL reads that column "
            f"as ShareGPT's. Read it as messages: `--{option} messages=conversations` (`{option}` in YAML and Python)."
        )


def read_records(dataset: Any, indices: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield rows as their columns hold them.

    A transform that the user has set gets each row by itself, as if the rows were read one by one.

    Args:
        dataset: a `Dataset`.
        indices: places of the rows, best ascending.
    """
    if dataset.format["type"] == "custom":
        for index in indices:
            yield dataset[index]
        return
    for start in range(0, len(indices), READ_AT_ONCE):
        columns = dataset[_as_slice(indices[start : start + READ_AT_ONCE])]
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(columns, values, strict=True))


def _as_slice(indices: Sequence[int]) -> slice | list[int]:
    """Return neighbouring places as a slice, which copies nothing."""
    first, last = indices[0], indices[-1]
    if list(indices) == list(range(first, last + 1)):
        return slice(first, last + 1)
    return list(indices)
