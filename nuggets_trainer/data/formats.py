"""Formats by their columns: of several that a dataset has, the one that SFTTrainer would train on is read."""

from __future__ import annotations

import functools
import itertools
import json
import logging
import shlex
from collections.abc import Iterable
from typing import Any

from nuggets_trainer.data.guess_columns import are_rows_by_name, guess_columns, lists_of_text, wrapped_rows

logger = logging.getLogger(__name__)

# In the order in which TRL looks for them. Alpaca columns come last: TRL does not read them.
FORMATS = {
    "tokenized": ("input_ids",),
    "prompt_completion": ("prompt", "completion"),
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "text": ("text",),
    "alpaca": ("instruction", "output"),
}
# Columns that are read beside them, where they are there.
OPTIONAL = {
    "tokenized": ("labels", "completion_mask", "assistant_masks", "attention_mask"),
    "prompt_completion": ("tools", "chat_template_kwargs"),
    "messages": ("tools", "chat_template_kwargs"),
    "sharegpt": ("system", "tools", "chat_template_kwargs"),
    "text": (),
    "alpaca": ("input", "system", "history", "tools", "chat_template_kwargs"),
}
# Columns that rows of any format consist of; all others describe a row.
ROW_COLUMNS = frozenset(itertools.chain(*FORMATS.values(), *OPTIONAL.values()))


def formats_help(text_field: str = "text") -> str:
    """List the formats that can be read, for errors."""
    return (
        "`prompt` + `completion` (text, or lists of messages), `messages`, ShareGPT's `conversations`, Alpaca's "
        f"`instruction` + `output` (+ optional `input`), `{text_field}` (the `dataset_text_field` of SFTConfig), or "
        "`input_ids` (+ optional `labels`, or `completion_mask` and `assistant_masks`)"
    )


def fitting_formats(column_names: Iterable[str], text_field: str = "text") -> list[str]:
    """Return all formats that these columns have, in the order of `FORMATS`.

    Example:
        >>> fitting_formats(["instruction", "output", "text"])
        ['text', 'alpaca']
    """
    names = set(column_names)
    tables = {**FORMATS, "text": (text_field,)}
    return [row_format for row_format, columns in tables.items() if names.issuperset(columns)]


def detect_format(column_names: list[str], name: str, text_field: str = "text", features: Any = None) -> str:
    """Return the format that is read: the first in `FORMATS` whose columns are there.

    Args:
        column_names: columns of the dataset.
        name: name of the dataset in errors.
        text_field: column of the format `text`.
        features: features of the dataset by column, for a guess in the error; None if they are not known.

    Raises:
        ValueError: if no format fits, or if TRL would fail on these columns.

    Example:
        >>> detect_format(["instruction", "input", "output"], "pool")
        'alpaca'
    """
    fitting = fitting_formats(column_names, text_field)
    if not fitting:
        raise ValueError(
            f"`{name}` has the columns {sorted(column_names)}, which match no known format. Expected "
            f"{formats_help(text_field)}. {_how_to_map(name, column_names, features)}"
        )
    if "prompt" in column_names and fitting[0] not in ("tokenized", "prompt_completion"):
        option, words = _option(name), _by_own_names(fitting[0], column_names, text_field)
        raise ValueError(
            f"`{name}` has the columns {sorted(column_names)}. TRL reads a row with `prompt` as prompt and "
            f"completion, but there is no column `completion`. To train on the format {fitting[0]!r}, map its "
            f"columns, which leaves out `prompt`: `--{option} {words}` (`{option}` in YAML and Python)."
        )
    if len(fitting) > 1:
        _log_format_choice(name, tuple(fitting))
    return fitting[0]


def _option(name: str) -> str:
    """Return the option that maps the columns of these rows."""
    return "anchor_columns" if name == "anchors" else "columns"


def _by_own_names(row_format: str, column_names: list[str], text_field: str) -> str:
    """Return the words of `columns` that keep the names of a format's columns."""
    if row_format == "text":
        return shlex.quote(f"text={text_field}")
    if row_format == "sharegpt":  # messages would not read its column `system` otherwise
        return "messages=conversations" + (" system=system" if "system" in column_names else "")
    columns = FORMATS[row_format]
    return " ".join(f"{name}={name}" for name in columns)


def _how_to_map(name: str, column_names: list[str], features: Any) -> str:
    """Say which words of `columns` name the columns, with a guess if there is only one way to read them."""
    option = _option(name)
    words = guess_columns(column_names, features)
    inside = wrapped_rows(column_names, features)
    if not words and inside is not None:
        return (
            f"Do the rows stand inside of `{inside}`? Then write them to a file of their own: "
            f"`jq -c '.{inside}[]' FILE > rows.jsonl`."
        )
    if are_rows_by_name(column_names, features):
        return "Is each column a row? Then write the rows to a file of their own: `jq -c '.[]' FILE > rows.jsonl`."
    lists = lists_of_text(column_names, features)
    if lists is not None:
        taken = shlex.quote(f".[{json.dumps(lists)}] |= .[0]")
        return (
            f"{lists!r} holds lists of texts, but a row needs one text. Take the first one of each list: "
            f"`jq -c {taken} FILE > rows.jsonl`. Then run `nuggets inspect` on that file."
        )
    if not words:
        return (
            f"Say which column is which, such as `--{option} {_example(column_names)}` (`{option}` in YAML and "
            "Python), or pass a `formatting_func` in Python. `nuggets inspect` shows what each column holds."
        )
    return (
        f"Is it `--{option} {shlex.join(words)}`? (In YAML and Python: `{option}`.) `instruction` and `output` are "
        "written with the chat template, or with a blank line between them; `prompt` and `completion` are joined as "
        "they are. In Python a `formatting_func` works too. `nuggets inspect` shows the rows as they would be read."
    )


def _example(column_names: list[str]) -> str:
    """Return words of `columns` that name columns of the dataset, whatever these hold."""
    if len(column_names) < 2:
        return shlex.join(f"text={name}" for name in column_names)
    return shlex.join([f"prompt={column_names[0]}", f"completion={column_names[1]}"])


@functools.cache  # a run reads the same dataset several times; one message is enough
def _log_format_choice(name: str, fitting: tuple[str, ...]) -> None:
    logger.info(
        "`%s` has the columns of several formats (%s). %r is read, because SFTTrainer trains on it.",
        name,
        ", ".join(fitting),
        fitting[0],
    )
