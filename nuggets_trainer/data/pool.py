"""A dataset of any supported format -> rows, content hashes, reasons where a row is unusable.

Knows no tokenizer and no model: how a record is read is in `rows.py`, what it looks like as text in `templates.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nuggets_trainer.data.formats import detect_format, fitting_formats
from nuggets_trainer.data.read_row import formatted_row, read_row
from nuggets_trainer.data.row import Row, UnusableRowError

if TYPE_CHECKING:
    from datasets import Dataset

    FormattingFunc = Callable[[dict[str, Any]], str]


class Pool:
    """The rows of a dataset, read on demand: `pool[i]` is a `Row`, or raises `UnusableRowError` with the reason.

    Args:
        dataset: a `datasets.Dataset` in one of the formats of `FORMATS`, or in any with `formatting_func`.
        name: what to call it in errors (`train_dataset`, `anchors`).
        formatting_func: writes a row as the text that TRL trains on.
        response_field: the column with the response: what the function writes alike with and without it is the prompt.
            None: the whole text is the completion.
        text_field: SFTConfig's `dataset_text_field`, the column of the format `text`.
        completion_only_loss: SFTConfig's.
        row_format: the key of `FORMATS` to read; None for the first that fits.
        eos_token: of rows that TRL has prepared: what it wrote at the end of their text is not read.

    Attributes:
        format: the key of `FORMATS` that is read, or `formatting_func`.
        completion_only: whether TRL puts loss on completions alone, where it knows of them: as `completion_only_loss`
            says, else where it sees the columns `prompt` and `completion` (which it is given for Alpaca's).
        why_tokenized: says, for errors, why the other columns of rows that are tokenized already are not read.

    Raises:
        TypeError: if it is not a `Dataset` (a `DatasetDict`, an `IterableDataset`, ...), or the function gives no
            string.
        ValueError: if it is empty, of no known format, packed, or not of text alone; or if function, `response_field`
            and columns do not fit together.
    """

    def __init__(
        self,
        dataset: Dataset,
        name: str = "train_dataset",
        formatting_func: FormattingFunc | None = None,
        response_field: str | None = None,
        *,
        text_field: str = "text",
        completion_only_loss: bool | None = None,
        row_format: str | None = None,
        eos_token: str | None = None,
    ) -> None:
        self.dataset = check_dataset(dataset, name)
        self.name = name
        self.formatting_func, self.response_field = formatting_func, response_field
        self.text_field, self.eos_token, self.why_tokenized = text_field, eos_token, ""
        # Lists, whatever tensors a dataset is set to give; a transform is the user's own and stays.
        self._records = dataset if dataset.format["type"] == "custom" else dataset.with_format(None)
        self._keys: tuple[list[str], dict[int, str]] | None = None
        self._texts: dict[str, str] = {}
        if response_field is not None and formatting_func is None:
            raise ValueError(
                f"`response_field={response_field!r}` is given without `formatting_func`: it tells which part of the "
                "text that the function writes is the completion. Pass `formatting_func`, or leave it out."
            )
        if formatting_func is None:
            self.format = row_format or detect_format(dataset.column_names, name, text_field)
        else:
            self.format = "formatting_func"
            self._check_formatting(formatting_func)
        has_both = {"prompt", "completion"} <= set(dataset.column_names) or self.format == "alpaca"
        self.completion_only = has_both if completion_only_loss is None else completion_only_loss
        self._check_first_row()

    def __len__(self) -> int:
        return len(self.dataset)

    def record(self, index: int) -> dict[str, Any]:
        """Return a row as its columns hold it."""
        record: dict[str, Any] = self._records[index]
        return record

    def __getitem__(self, index: int) -> Row:
        row = self._read(self.record(index))
        return row if self.eos_token is None else row.without_eos(self.eos_token)

    def _read(self, record: dict[str, Any]) -> Row:
        if self.formatting_func is None:
            return read_row(record, self.format, text_field=self.text_field, completion_only=self.completion_only)
        if self.response_field is None:
            return read_row({"text": self.formatting_func(record)}, "text")
        if record[self.response_field] is None:
            raise UnusableRowError("completion_not_text")
        without_response = self.formatting_func({**record, self.response_field: ""})
        return formatted_row(self.formatting_func(record), without_response)

    def read_keys(self) -> tuple[list[str], dict[int, str]]:
        """Content hash of each row ("" where unusable), and the reason for each row that is unusable as it stands."""
        if self._keys is None:
            keys, dropped = [], {}
            self._sizes = np.zeros(len(self), dtype=np.int64)
            for i in range(len(self)):
                try:
                    row = self[i]
                    keys.append(row.key)
                    self._texts[keys[-1]] = row.text_key
                    self._sizes[i] = row.size
                except UnusableRowError as error:
                    keys.append("")
                    dropped[i] = str(error)
            self._keys = keys, dropped
        return self._keys[0], dict(self._keys[1])

    def exclude(self, reasons: dict[int, str]) -> None:
        """Take these rows for unusable from now on, each with its reason; the content hash stays."""
        keys, dropped = self.read_keys()
        self._keys = keys, {**reasons, **dropped}

    def longest_first(self, indices: Sequence[int]) -> list[int]:
        """Sort rows by how much they say, so that every n-th of them is the n-th part of the work."""
        self.read_keys()
        return sorted(indices, key=lambda i: (-int(self._sizes[i]), i))

    @property
    def texts(self) -> dict[str, str]:
        """Content hash of a row -> hash of its text (`Row.text_key`)."""
        self.read_keys()
        return self._texts

    @property
    def content_hash(self) -> str:
        """Hash of all rows in their order."""
        return hashlib.sha256("".join(self.read_keys()[0]).encode()).hexdigest()[:32]

    @property
    def is_conversational(self) -> bool:
        """Whether the rows are made of messages."""
        if self.format in ("messages", "sharegpt"):
            return True
        return self.format == "prompt_completion" and self._is_list("prompt")

    @property
    def has_messages(self) -> bool:
        """Whether TRL takes the rows for conversations, whatever is read of them."""
        return any(name in self.dataset.features and self._is_list(name) for name in ("prompt", "messages"))

    def _is_list(self, column: str) -> bool:
        from datasets import Value

        return not isinstance(self.dataset.features[column], Value)

    @property
    def is_text_only(self) -> bool:
        """Whether the rows have no prompt: the whole text is the completion."""
        return self.format == "text" or (self.format == "formatting_func" and self.response_field is None)

    def _check_formatting(self, formatting_func: FormattingFunc) -> None:
        columns, field = self.dataset.column_names, self.response_field
        if self.text_field != "text":
            raise ValueError(
                f"TRL writes what `formatting_func` gives into the column `text`, but trains on "
                f"`dataset_text_field={self.text_field!r}` (SFTConfig). Leave `dataset_text_field` out."
            )
        ignored = sorted({"prompt", "messages", "conversations", "input_ids"} & set(columns))
        if ignored:
            raise ValueError(
                f"`{self.name}` has the columns {ignored}, for which TRL does not use `formatting_func`. Leave the "
                f"function out, or rename or remove these columns (`dataset.remove_columns({ignored!r})`)."
            )
        if field is not None and field not in columns:
            raise ValueError(
                f"`response_field={field!r}` is no column of `{self.name}`, whose columns are {sorted(columns)}. "
                "Name the column that holds the response."
            )
        record = self._records[0]
        text = formatting_func(dict(record))
        if not isinstance(text, str):
            raise TypeError(
                f"`formatting_func` gave {type(text).__name__} for the first row of `{self.name}`, expected one "
                "string: the row as TRL trains on it, without EOS."
            )
        response = "" if field is None else record[field]
        if response is None or not str(response).strip():
            return  # an empty response is a reason to drop a row, no sign that the function does not write it
        try:
            self[0]
        except UnusableRowError as error:
            raise ValueError(
                f"`formatting_func` writes the first row of `{self.name}` alike with and without its "
                f"`response_field={field!r}`, so that nothing is left to score. Name the column that holds the "
                "response, or have the function write it."
            ) from error

    def _check_first_row(self) -> None:
        """Refuse at once what is the same in every row."""
        if self.format == "tokenized":
            packed = sorted({"seq_lengths", "position_ids"} & set(self.dataset.column_names))
            if packed:
                raise ValueError(
                    f"`{self.name}` is packed (it has the columns {packed}): a row must be one instruction. Select "
                    "before packing: pass the rows as they were before."
                )
        if self.format == "sharegpt":
            messages = self._records[0]["conversations"]
            first = messages[0] if isinstance(messages, list) and messages else None
            if isinstance(first, dict) and "from" not in first:
                raise ValueError(
                    f"`{self.name}` has messages without `from` and `value` in its column `conversations`, which TRL "
                    "reads as ShareGPT's. Rename it: `dataset.rename_column('conversations', 'messages')`."
                )
        try:
            self[0]
        except UnusableRowError as error:
            if str(error) == "not_text":
                raise ValueError(
                    f"`{self.name}`: row 0 holds a part that is no text (image, audio or video), but selection works "
                    "on text alone. Remove such parts or such rows."
                ) from error


def anchors_like(anchor_dataset: Dataset, pool: Pool) -> Pool:
    """Read anchors as the pool is read: with its `formatting_func` where they have its columns, else as what they are.

    Of several formats that fit, the pool's is taken; else one with a prompt where the pool has prompts. Where their
    columns are of no known format, the error shows the pool's beside them.
    """
    try:
        columns = check_dataset(anchor_dataset, "anchors").column_names
        if pool.formatting_func is not None and set(columns) >= set(pool.dataset.column_names):
            return Pool(anchor_dataset, "anchors", pool.formatting_func, pool.response_field)
        text_field = pool.text_field if pool.text_field in columns else "text"
        return Pool(
            anchor_dataset,
            "anchors",
            text_field=text_field,
            completion_only_loss=pool.completion_only,
            row_format=_anchor_format(fitting_formats(columns, text_field), pool),
            eos_token=pool.eos_token,
        )
    except ValueError as error:
        raise ValueError(f"{error} (The pool's columns are {sorted(pool.dataset.column_names)}.)") from error


def _anchor_format(fitting: list[str], pool: Pool) -> str | None:
    def order(row_format: str) -> tuple[bool, ...]:
        no_prompt = row_format == "text" and not pool.is_text_only
        return row_format != pool.format, row_format == "tokenized", no_prompt

    return min(fitting, key=order, default=None)


def take_pool(dataset: Any, pool_size: int | None, name: str = "train_dataset") -> Any:
    """Cut a dataset to its first rows; a stream becomes a `Dataset` in memory.

    Args:
        dataset: a `Dataset`, or an `IterableDataset`.
        pool_size: how many rows; None takes a `Dataset` as it is, and refuses a stream.
        name: what to call it in errors.

    Raises:
        TypeError: if it is neither, or a stream without `pool_size`.
        ValueError: if it is empty.
    """
    from datasets import Dataset, IterableDataset

    if pool_size is None:
        return check_dataset(dataset, name)
    if isinstance(dataset, IterableDataset):
        rows = list(dataset.take(pool_size))
        return check_dataset(Dataset.from_list(rows, features=dataset.features), name)
    return check_dataset(dataset, name).select(range(min(pool_size, len(dataset))))


def check_dataset(dataset: Any, name: str) -> Any:
    """Return `dataset` if it is a map-style `Dataset` with rows; else raise and say what to pass."""
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

    if isinstance(dataset, (DatasetDict, IterableDatasetDict)):
        example = "train" if "train" in dataset or not dataset else sorted(dataset)[0]
        raise TypeError(
            f"`{name}` is a {type(dataset).__name__} with splits {sorted(dataset)}, expected one split: pass e.g. "
            f"`dataset[{example!r}]`."
        )
    if isinstance(dataset, IterableDataset):
        raise TypeError(
            f"`{name}` is an IterableDataset: candidates are ranked against each other, so their number must be known."
            " Take a bounded number of rows into memory first: set `pool_size` (of a pool), or pass "
            "`Dataset.from_list(list(dataset.take(n)))`."
        )
    if not isinstance(dataset, Dataset):
        raise TypeError(f"`{name}` must be a datasets.Dataset, got {type(dataset).__name__}.")
    if len(dataset) == 0:
        raise ValueError(f"`{name}` is empty: expected at least one row.")
    return dataset
