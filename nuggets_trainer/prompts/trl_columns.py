"""Rows with Alpaca columns -> TRL's columns `prompt` and `completion`, as they are scored."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from nuggets_trainer.data.formats import fitting_formats
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.read_row import read_row
from nuggets_trainer.data.row import Message, Row, UnusableRowError, joined_text
from nuggets_trainer.prompts.chat import conversation
from nuggets_trainer.prompts.nuggets import nuggets_completion, nuggets_prompt
from nuggets_trainer.prompts.plain import row_separator
from nuggets_trainer.prompts.templates import resolve_alpaca_template
from nuggets_trainer.wording import tally

if TYPE_CHECKING:
    from datasets import Dataset


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


def alpaca_to_trl(dataset: Dataset, template_name: str) -> Dataset:
    """Replace Alpaca columns by TRL's `prompt` and `completion`; other columns stay.

    Args:
        dataset: rows with `instruction`, `output` and perhaps `input`.
        template_name: `chat`, `plain` or `nuggets`: how the rows will look in training.

    Raises:
        ValueError: if a row is unusable, e.g. with an empty output.
    """

    def convert(record: dict[str, Any], i: int) -> dict[str, Any]:
        try:
            return train_columns(template_name, read_row(record, "alpaca"))
        except UnusableRowError as error:
            raise ValueError(f"Row {i} (Alpaca columns) cannot be trained or evaluated on: {error}.") from error

    removed = {"instruction", "input", "output"}.intersection(dataset.column_names)
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
