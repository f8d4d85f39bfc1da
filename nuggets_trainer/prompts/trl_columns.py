"""Rows as they are scored -> TRL's columns: from Alpaca columns, and from messages with ShareGPT's roles."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from nuggets_trainer.data.formats import fitting_formats
from nuggets_trainer.data.messages import CHATML_KEYS
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.read_row import CONVERSATION_COLUMNS, differs_in_trl, read_row
from nuggets_trainer.data.row import Message, Row, UnusableRowError, joined_text
from nuggets_trainer.prompts.chat import conversation
from nuggets_trainer.prompts.nuggets import nuggets_completion, nuggets_prompt
from nuggets_trainer.prompts.plain import row_separator
from nuggets_trainer.prompts.templates import resolve_alpaca_template
from nuggets_trainer.wording import tally

if TYPE_CHECKING:
    from datasets import Dataset, Features

MESSAGE_COLUMNS = ("prompt", "completion", "messages", "conversations")


def is_alpaca(column_names: list[str] | None, text_field: str = "text") -> bool:
    """Whether rows have Alpaca columns and no columns that TRL would train on.

    Args:
        column_names: columns of a dataset; None if a stream does not know them.
        text_field: SFTConfig's `dataset_text_field`, one of the columns that TRL would train on.
    """
    if column_names is None or "prompt" in column_names:  # TRL reads `prompt` even without `completion`, and fails
        return False
    return fitting_formats(column_names, text_field) == ["alpaca"]


def first_row_in_trl_columns(pool: Pool, template_name: str, chat_template: str | None) -> Dataset:
    """Return one row of a pool with Alpaca columns in TRL's columns.

    TRL decides by the first row of the training set what to put loss on, before anything is scored.

    Args:
        pool: rows with Alpaca columns.
        template_name: name of a template, or `auto`.
        chat_template: Jinja text of the tokenizer's chat template, if there is one.

    Raises:
        ValueError: if no row of the pool is usable.
    """
    usable = pool.usable_indices()
    if not usable:
        _, dropped = pool.read_keys()
        raise ValueError(f"No row of `{pool.name}` is usable ({tally(Counter(dropped.values()))}).")
    return alpaca_to_trl(pool.dataset.select(usable[:1]), resolve_alpaca_template(template_name, chat_template))


def in_trl_columns(dataset: Dataset, template_name: str, text_field: str = "text") -> Dataset:
    """Convert rows that TRL would not train on as they are scored; a dataset without such rows is returned as it is.

    Args:
        dataset: rows in any format, or a stream.
        template_name: `chat`, `plain` or `nuggets`: how rows with Alpaca columns will look in training.
        text_field: SFTConfig's `dataset_text_field`.

    Raises:
        ValueError: if a row that needs to be converted is unusable.
    """
    columns = dataset.column_names
    if columns is None:  # a stream that does not know them
        return dataset
    if is_alpaca(columns, text_field):
        return alpaca_to_trl(dataset, template_name)
    fitting = fitting_formats(columns, text_field)
    if not fitting or fitting[0] not in CONVERSATION_COLUMNS:
        return dataset
    row_format = fitting[0]
    for record in dataset:
        if differs_in_trl(record, row_format):
            return _renamed_messages(dataset, row_format)
    return dataset


def _renamed_messages(dataset: Dataset, row_format: str) -> Dataset:
    """Write every conversation as it is read: the roles that templates know, and calls as `tool_calls`."""

    def convert(record: dict[str, Any], i: int) -> dict[str, Any]:
        try:
            row = read_row(record, row_format)
        except UnusableRowError as error:
            raise ValueError(f"Row {i} ({row_format}) cannot be trained or evaluated on: {error}.") from error
        if row_format == "prompt_completion":
            columns: dict[str, Any] = {"prompt": row.prompt, "completion": row.completion}
        else:
            columns = {"messages": [*row.prompt, *row.completion]}
        return {**columns, **_no_empty_tools(record, row)}

    removed = ["conversations"] if row_format == "sharegpt" else []
    return dataset.map(convert, with_indices=True, remove_columns=removed, features=_renamed_features(dataset))


def _no_empty_tools(record: dict[str, Any], row: Row) -> dict[str, None]:
    """Return the column `tools` with null in place of an empty text, on which TRL fails; no column if it is right."""
    if "tools" in record and row.tools is None:
        return {"tools": None}
    return {}


def _renamed_features(dataset: Dataset) -> Features | None:
    """Return features in which each tool call keeps its own arguments; None leaves the features to `map`.

    Arrow would give all calls the arguments of all others, as nulls, and a chat template would write these.
    """
    from datasets import Features, Json, List, Value

    if dataset.features is None:
        return None
    features: dict[str, Any] = {}
    for column, feature in dataset.features.items():
        is_message_list = isinstance(feature, List) and isinstance(feature.feature, dict)
        if column not in MESSAGE_COLUMNS or not is_message_list:
            features["messages" if column == "conversations" else column] = feature
            continue
        message = {CHATML_KEYS.get(key, key): kind for key, kind in feature.feature.items()}
        message = {"content": Value("string"), "tool_calls": List(Json()), **message}
        features["messages" if column == "conversations" else column] = List(message)
    return Features(features)


def alpaca_to_trl(dataset: Dataset, template_name: str) -> Dataset:
    """Replace Alpaca columns by TRL's `prompt` and `completion`; other columns stay.

    Args:
        dataset: rows with `instruction`, `output` and perhaps `input`, `system` and `history`.
        template_name: `chat`, `plain` or `nuggets`: how the rows will look in training.

    Raises:
        ValueError: if a row is unusable, e.g. with an empty output.
    """

    def convert(record: dict[str, Any], i: int) -> dict[str, Any]:
        try:
            row = read_row(record, "alpaca")
        except UnusableRowError as error:
            raise ValueError(f"Row {i} (Alpaca columns) cannot be trained or evaluated on: {error}.") from error
        return {**train_columns(template_name, row), **_no_empty_tools(record, row)}

    removed = {"instruction", "input", "output", "system", "history"}.intersection(dataset.column_names)
    return dataset.map(convert, with_indices=True, remove_columns=sorted(removed))


def train_columns(template_name: str, row: Row) -> dict[str, str | list[Message]]:
    """Return a row as TRL's `prompt` and `completion`, so that training sees what was scored with the template.

    Args:
        template_name: `chat` gives lists of messages, which TRL renders with the chat template; `plain` and `nuggets`
            give text, to which TRL adds EOS.
        row: row with Alpaca columns, which TRL does not read.
    """
    if template_name == "chat":
        prompt, completion = conversation(row)
        return {"prompt": prompt, "completion": completion}
    if template_name == "plain":
        return {"prompt": joined_text(row.prompt) + row_separator(row), "completion": joined_text(row.completion)}
    return {"prompt": nuggets_prompt(row), "completion": nuggets_completion(row)}
