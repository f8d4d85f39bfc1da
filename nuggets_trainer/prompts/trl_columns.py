"""Rows as they are scored -> TRL's columns: Alpaca columns, ShareGPT's roles, contents that are not shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nuggets_trainer.data.formats import fitting_formats
from nuggets_trainer.data.messages import CHATML_KEYS, conversation
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.read_row import CONVERSATION_COLUMNS, differs_in_trl, read_row
from nuggets_trainer.data.row import Message, Row, UnusableRowError, joined_text
from nuggets_trainer.prompts.nuggets import nuggets_completion, nuggets_prompt
from nuggets_trainer.prompts.plain import row_separator
from nuggets_trainer.prompts.render_chat import ChatRenderer
from nuggets_trainer.prompts.templates import resolve_alpaca_template
from nuggets_trainer.wording import tally

if TYPE_CHECKING:
    from datasets import Dataset, Features
    from transformers import PreTrainedTokenizerBase

AsContent = Callable[[Message], Message]  # gives a message's content the form that a chat template shows

PREFERENCES = ("chosen", "rejected")
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


def without_preferences(dataset: Dataset) -> Dataset:
    """Remove the columns of a preference dataset, by which TRL (1.16) may tell the wrong format.

    Its `is_conversational` looks at one of `prompt`, `completion`, `messages`, `chosen` and `rejected`, and perhaps at
    another one in each process: the order of a set of texts is random.

    Args:
        dataset: rows in any format, or a stream.
    """
    found = [name for name in dataset.column_names or () if name in PREFERENCES]
    return dataset.remove_columns(found) if found else dataset


def first_row_in_trl_columns(pool: Pool, template_name: str, has_chat_template: bool) -> Dataset:
    """Return one row of a pool with Alpaca columns in TRL's columns.

    TRL decides by the first row of the training set what to put loss on, before anything is scored.

    Args:
        pool: rows with Alpaca columns.
        template_name: name of a template, or `auto`.
        has_chat_template: whether the tokenizer that trains has a chat template.

    Raises:
        ValueError: if no row of the pool is usable.
    """
    usable = pool.usable_indices()
    if not usable:
        _, dropped = pool.read_keys()
        raise ValueError(f"No row of `{pool.name}` is usable ({tally(Counter(dropped.values()))}).")
    first = without_preferences(pool.dataset.select(usable[:1]))
    return alpaca_to_trl(first, resolve_alpaca_template(template_name, has_chat_template))


def in_trl_columns(
    dataset: Dataset,
    template_name: str,
    text_field: str = "text",
    tokenizer: PreTrainedTokenizerBase | None = None,
    training_chat_template: str | None = None,
) -> Dataset:
    """Convert rows that TRL would not train on as they are scored; a dataset without such rows is returned as it is.

    Args:
        dataset: rows in any format, or a stream.
        template_name: `chat`, `plain` or `nuggets`: how rows with Alpaca columns will look in training.
        text_field: SFTConfig's `dataset_text_field`.
        tokenizer: tokenizer of training. Contents get the form that its chat template shows: text, or a list of
            parts. None leaves them as they are.
        training_chat_template: chat template that TRL renders with in place of the tokenizer's own.

    Raises:
        ValueError: if a row that needs to be converted is unusable.
    """
    columns = dataset.column_names
    if columns is None:  # a stream that does not know them
        return dataset
    dataset = without_preferences(dataset)
    columns = dataset.column_names
    as_content = None
    if tokenizer is not None and tokenizer.chat_template:
        as_content = ChatRenderer(tokenizer, training_chat_template).as_content
    if is_alpaca(columns, text_field):
        return alpaca_to_trl(dataset, template_name, as_content)
    fitting = fitting_formats(columns, text_field)
    if not fitting or fitting[0] not in CONVERSATION_COLUMNS:
        return dataset
    row_format = fitting[0]
    for record in dataset:
        if differs_in_trl(record, row_format) or is_in_another_form(record, row_format, as_content):
            return _converted_messages(dataset, row_format, as_content)
    return dataset


def is_in_another_form(record: dict[str, Any], row_format: str, as_content: AsContent | None) -> bool:
    """Whether the content of a message has a form that the chat template does not show.

    Args:
        record: values by column.
        row_format: key of `FORMATS` in data/formats.py, of a conversation.
        as_content: `ChatRenderer.as_content` of the chat template.
    """
    if as_content is None:
        return False
    for column in CONVERSATION_COLUMNS[row_format]:
        messages = record[column]
        for message in messages if isinstance(messages, list) else []:
            renamed = {CHATML_KEYS.get(key, key): value for key, value in message.items()}
            if as_content(renamed) is not renamed:
                return True
    return False


def _converted_messages(dataset: Dataset, row_format: str, as_content: AsContent | None) -> Dataset:
    """Write every conversation as it is read: roles and contents that the template shows, calls as `tool_calls`."""

    def convert(record: dict[str, Any], i: int) -> dict[str, Any]:
        try:
            row = read_row(record, row_format)
        except UnusableRowError as error:
            raise ValueError(f"Row {i} ({row_format}) cannot be trained or evaluated on: {error}.") from error
        prompt, completion = _in_form(row.prompt, as_content), _in_form(row.completion, as_content)
        if row_format == "prompt_completion":
            columns: dict[str, Any] = {"prompt": prompt, "completion": completion}
        else:
            columns = {"messages": [*prompt, *completion]}
        return {**columns, **_no_empty_tools(record, row)}

    removed = ["conversations"] if row_format == "sharegpt" else []
    features = _converted_features(dataset, as_content)
    return dataset.map(convert, with_indices=True, remove_columns=removed, features=features)


def _in_form(part: str | list[Message], as_content: AsContent | None) -> str | list[Message]:
    """Return messages whose contents have the form that the template shows; text stays."""
    if as_content is None or isinstance(part, str):
        return part
    return [as_content(message) for message in part]


def _no_empty_tools(record: dict[str, Any], row: Row) -> dict[str, None]:
    """Return the column `tools` with null in place of an empty text, on which TRL fails; no column if it is right."""
    if "tools" in record and row.tools is None:
        return {"tools": None}
    return {}


def _converted_features(dataset: Dataset, as_content: AsContent | None) -> Features | None:
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
        if as_content is not None:
            as_parts = isinstance(as_content({"content": ""})["content"], list)
            message["content"] = (
                List({"type": Value("string"), "text": Value("string")}) if as_parts else Value("string")
            )
        features["messages" if column == "conversations" else column] = List(message)
    return Features(features)


def alpaca_to_trl(dataset: Dataset, template_name: str, as_content: AsContent | None = None) -> Dataset:
    """Replace Alpaca columns by TRL's `prompt` and `completion`; other columns stay.

    Args:
        dataset: rows with `instruction`, `output` and perhaps `input`, `system` and `history`.
        template_name: `chat`, `plain` or `nuggets`: how the rows will look in training.
        as_content: function that gives a message's content the form that the chat template shows; None leaves text.

    Raises:
        ValueError: if a row is unusable, e.g. with an empty output.
    """

    def convert(record: dict[str, Any], i: int) -> dict[str, Any]:
        try:
            row = read_row(record, "alpaca")
        except UnusableRowError as error:
            raise ValueError(f"Row {i} (Alpaca columns) cannot be trained or evaluated on: {error}.") from error
        columns = {name: _in_form(part, as_content) for name, part in train_columns(template_name, row).items()}
        return {**columns, **_no_empty_tools(record, row)}

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
