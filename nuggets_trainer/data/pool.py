"""`Pool`: the rows of a dataset, their content hashes, and the reason for each row that is unusable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nuggets_trainer.config.column_mapping import read_column_mapping
from nuggets_trainer.data.columns import map_columns
from nuggets_trainer.data.dataset import (
    check_dataset,
    check_not_packed,
    check_sharegpt_keys,
    check_text_alone,
    hub_sources,
    read_records,
)
from nuggets_trainer.data.formats import detect_format
from nuggets_trainer.data.messages import log_renamed_roles, unknown_roles_error
from nuggets_trainer.data.read_row import formatted_row, read_row, roles_of
from nuggets_trainer.data.row import Row, TextKeys, UnusableRowError, hash_of_keys

if TYPE_CHECKING:
    from datasets import Dataset

    FormattingFunc = Callable[[dict[str, Any]], str]

UNREADABLE = "-"  # stands for a row that cannot be read, in the hash of a pool; no content hash has this character


class Pool:
    """The rows of a dataset, read on demand: `pool[i]` is a `Row`, or raises `UnusableRowError` with the reason.

    Args:
        dataset: a `datasets.Dataset` in one of the formats of `FORMATS`, or in any format with `formatting_func`.
        name: name of the dataset in errors (`train_dataset`, `anchors`).
        formatting_func: function that writes a record as the text that TRL trains on.
        response_field: column with the response. The text that the function writes alike with and without the response
            is the prompt. None: the whole text is the completion.
        text_field: column of the format `text`, SFTConfig's `dataset_text_field`.
        completion_only_loss: SFTConfig's option of this name.
        row_format: key of `FORMATS` to read; None for the first that fits.
        eos_token: EOS that TRL wrote at the end of each row's text, which is not read; None if TRL has not prepared
            the rows.
        columns: columns of the dataset by their standard names, as in `NuggetsConfig`; None if they have these names.

    Attributes:
        format: key of `FORMATS` that is read, or `formatting_func`.
        completion_only: whether TRL puts loss on completions alone: as `completion_only_loss` says; if that is None,
            whether TRL sees the columns `prompt` and `completion` (it is given these for Alpaca columns too).
        why_tokenized: sentence for errors that says why the other columns of tokenized rows are not read; "" if there
            is nothing to say.

    Raises:
        TypeError: if it is not a `Dataset` (a `DatasetDict`, an `IterableDataset`, ...), or if the function does not
            return a string.
        ValueError: if it is empty, of no known format, packed, or holds more than text; or if function,
            `response_field` and columns do not fit together. `read_keys` raises it if the roles of all messages are
            unknown.
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
        columns: Mapping[str, Any] | Sequence[str] | str | None = None,
    ) -> None:
        dataset = check_dataset(map_columns(dataset, read_column_mapping(columns), name), name)
        self.dataset = dataset
        self.name = name
        self.formatting_func = formatting_func
        self.response_field = response_field
        self.text_field = text_field
        self.eos_token = eos_token
        self.why_tokenized = ""
        # Records hold lists, whatever tensors the dataset is set to return. A user's own transform stays.
        self._records = dataset if dataset.format["type"] == "custom" else dataset.with_format(None)
        self._keys: list[str] | None = None
        self._unreadable: dict[int, str] = {}
        self._excluded: dict[str, dict[int, str]] = {}
        self._texts: Mapping[str, str] = {}
        self._sizes = np.zeros(len(dataset), dtype=np.int64)
        if response_field is not None and formatting_func is None:
            raise ValueError(
                f"`response_field={response_field!r}` needs a `formatting_func`: it names the column whose text, as "
                "the function writes it, is the completion. Pass `formatting_func`, or leave `response_field` out."
            )
        if formatting_func is None:
            self.format = row_format or detect_format(dataset.column_names, name, text_field, dataset.features)
        else:
            self.format = "formatting_func"
            self._check_columns_for_function()
            self._check_first_text(formatting_func)
        if completion_only_loss is None:
            has_both = {"prompt", "completion"} <= set(dataset.column_names)
            self.completion_only = has_both or self.format == "alpaca"
        else:
            self.completion_only = completion_only_loss
        self._check_first_row()

    def __len__(self) -> int:
        return len(self.dataset)

    def record(self, index: int) -> dict[str, Any]:
        """Return a row as its columns hold it."""
        record: dict[str, Any] = self._records[index]
        return record

    def __getitem__(self, index: int) -> Row:
        return self._row_of(self.record(index))

    def rows(self, indices: Sequence[int]) -> Iterator[Row | UnusableRowError]:
        """Yield the row of each index, or the reason why it is unusable; much faster than one by one.

        Args:
            indices: pool indices, best ascending.
        """
        for record in read_records(self._records, indices):
            try:
                yield self._row_of(record)
            except UnusableRowError as error:
                yield error

    def readable_rows(self, indices: Sequence[int]) -> list[Row]:
        """Return rows that are known to be readable, in the order of the indices."""
        return [row for row in self.rows(indices) if isinstance(row, Row)]

    def _row_of(self, record: dict[str, Any]) -> Row:
        row = self._read(record)
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
        """Return the content hash of each row, and the reason for each row that is unusable.

        Returns:
            Hashes of all rows, "" for a row that cannot be read; reasons by pool index, those of `exclude` included.
        """
        if self._keys is None:
            self._keys = self._read_all()
        dropped: dict[int, str] = {}
        for reasons in (self._unreadable, *self._excluded.values()):
            dropped = {**reasons, **dropped}
        return self._keys, dropped

    def _read_all(self) -> list[str]:
        """Read every row once; keep what can be said about it without its text."""
        keys = []
        texts = np.zeros(len(self), dtype=np.uint64)
        for i, row in enumerate(self.rows(range(len(self)))):
            key = ""
            if isinstance(row, UnusableRowError):
                self._unreadable[i] = str(row)
            else:
                key = row.key
                texts[i] = int(row.text_key, 16)
                self._sizes[i] = row.size
            keys.append(key)
        self._texts = TextKeys(keys, texts)
        if list(self._unreadable.values()) == ["unknown_role"] * len(self):
            raise unknown_roles_error(self.name, roles_of(self.record(0), self.format))
        return keys

    def exclude(self, reasons: dict[int, str], asked_by: str = "training") -> None:
        """Make rows unusable from now on; their content hashes stay, and so do earlier reasons.

        Args:
            reasons: reason for each row, by pool index.
            asked_by: name of the step that excludes them. Rows that it excluded before, and not now, are usable again.
        """
        self._excluded[asked_by] = dict(reasons)

    def usable_indices(self) -> list[int]:
        """Return the pool indices of the rows that are usable, ascending."""
        _, dropped = self.read_keys()
        return [i for i in range(len(self)) if i not in dropped]

    def longest_first(self, indices: Sequence[int]) -> list[int]:
        """Sort rows by their size, so that every n-th of them is about an n-th of the work."""
        self.read_keys()
        return sorted(indices, key=lambda i: (-int(self._sizes[i]), i))

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Size of each row, as `Row.size` counts it, `(n,)`; 0 for a row that cannot be read."""
        self.read_keys()
        return self._sizes

    @property
    def texts(self) -> Mapping[str, str]:
        """Hash of a row's text (`Row.text_key`) by the row's content hash."""
        self.read_keys()
        return self._texts

    @property
    def content_hash(self) -> str:
        """Hash of all rows in their order, with a mark where one cannot be read: equal pools have equal indices."""
        keys, _ = self.read_keys()
        return hash_of_keys(key or UNREADABLE for key in keys)

    @property
    def hash_without_places(self) -> str:
        """Hash that earlier versions called the content hash: it does not see where unreadable rows stand."""
        keys, _ = self.read_keys()
        return hash_of_keys(keys)

    @property
    def unreadable(self) -> dict[int, str]:
        """Reason for each row that cannot be read, by pool index; rows that were excluded later are not among them."""
        self.read_keys()
        return dict(self._unreadable)

    @property
    def hub_sources(self) -> dict[str, str]:
        """The datasets on the hub that the rows come from, each with its commit; empty if they are not known."""
        return hub_sources(self.dataset)

    @property
    def is_conversational(self) -> bool:
        """Whether the rows are made of messages."""
        if self.format in ("messages", "sharegpt"):
            return True
        return self.format == "prompt_completion" and self._is_list("prompt")

    @property
    def has_messages(self) -> bool:
        """Whether TRL takes the rows for conversations, whichever of their columns are read."""
        return self._is_list("prompt") or self._is_list("messages")

    def _is_list(self, column: str) -> bool:
        """Whether there is a column of this name that holds more than a single value."""
        from datasets import Value

        features = self.dataset.features
        return column in features and not isinstance(features[column], Value)

    @property
    def is_text_only(self) -> bool:
        """Whether the rows have no prompt: the whole text is the completion."""
        return self.format == "text" or (self.format == "formatting_func" and self.response_field is None)

    def _check_columns_for_function(self) -> None:
        columns, field = self.dataset.column_names, self.response_field
        if self.text_field != "text":
            raise ValueError(
                f"`dataset_text_field={self.text_field!r}` (SFTConfig) does not go with `formatting_func`: TRL writes "
                f"the function's text into the column `text`, but trains on `{self.text_field}`. Leave "
                "`dataset_text_field` out."
            )
        ignored = sorted({"prompt", "messages", "conversations", "input_ids"} & set(columns))
        if ignored:
            raise ValueError(
                f"`{self.name}` has the columns {ignored}: TRL trains on them and does not call `formatting_func`. "
                f"Leave the function out, or rename or remove these columns (`dataset.remove_columns({ignored!r})`)."
            )
        if field is not None and field not in columns:
            raise ValueError(
                f"`response_field` must be a column of `{self.name}`, which has {sorted(columns)}, got {field!r}. "
                "Name the column that holds the response."
            )

    def _check_first_text(self, formatting_func: FormattingFunc) -> None:
        """Refuse a function that returns no string, or whose text does not depend on the response."""
        record = self._records[0]
        text = formatting_func(dict(record))
        if not isinstance(text, str):
            raise TypeError(
                "`formatting_func` must return one string, the row as TRL trains on it without EOS, got "
                f"{type(text).__name__} for the first row of `{self.name}`."
            )
        if self.response_field is None:
            return
        response = record[self.response_field]
        if response is None or not str(response).strip():
            return  # an empty response makes this row unusable, but does not show that the function leaves it out
        try:
            self[0]
        except UnusableRowError as error:
            raise ValueError(
                f"`formatting_func` writes the first row of `{self.name}` alike with and without its "
                f"`response_field={self.response_field!r}`, so nothing is left to score. Name the column that holds "
                "the response, or have the function write it."
            ) from error

    def _check_first_row(self) -> None:
        """Refuse from columns and first row what is the same in every row."""
        check_text_alone(self.dataset, self.name)
        if self.format == "tokenized":
            check_not_packed(self.dataset, self.name)
        if self.format == "sharegpt":
            check_sharegpt_keys(self.record(0), self.name)
        log_renamed_roles(self.name, tuple(roles_of(self.record(0), self.format)))
        try:
            self[0]
        except UnusableRowError as error:
            if str(error) == "not_text":
                raise ValueError(
                    f"`{self.name}`: row 0 holds an image, audio or video, but selection works on text alone. Remove "
                    "such parts or such rows."
                ) from error
