"""Which columns of a dataset are read: the first format that SFTTrainer would train on. Knows no rows."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable

logger = logging.getLogger(__name__)

FORMATS = {  # in the order in which TRL looks for them; Alpaca's columns, which it does not know, come last
    "tokenized": ("input_ids",),
    "prompt_completion": ("prompt", "completion"),
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "text": ("text",),
    "alpaca": ("instruction", "output"),
}


def formats_help(text_field: str = "text") -> str:
    """List what is read, for errors."""
    return (
        "`prompt` + `completion` (text, or lists of messages), `messages`, ShareGPT's `conversations`, Alpaca's "
        f"`instruction` + `output` (+ optional `input`), `{text_field}` (the `dataset_text_field` of SFTConfig), or "
        "`input_ids` (+ optional `labels`, or `completion_mask` and `assistant_masks`)"
    )


def fitting_formats(column_names: Iterable[str], text_field: str = "text") -> list[str]:
    """Name all formats that these columns have, in the order of `FORMATS`.

    Example:
        >>> fitting_formats(["instruction", "output", "text"])
        ['text', 'alpaca']
    """
    names = set(column_names)
    tables = {**FORMATS, "text": (text_field,)}
    return [row_format for row_format, columns in tables.items() if names.issuperset(columns)]


def detect_format(column_names: list[str], name: str, text_field: str = "text") -> str:
    """Name the format (a key of `FORMATS`) that these columns have; the first that fits.

    Raises:
        ValueError: if there is none, or if TRL would fail on these columns.

    Example:
        >>> detect_format(["instruction", "input", "output"], "pool")
        'alpaca'
    """
    fitting = fitting_formats(column_names, text_field)
    if not fitting:
        raise ValueError(
            f"`{name}` has columns {sorted(column_names)}, which is no known format. Expected "
            f"{formats_help(text_field)}. Rename the columns (`dataset.rename_columns`), map the rows to one of "
            "these, or give a `formatting_func`."
        )
    if "prompt" in column_names and fitting[0] not in ("tokenized", "prompt_completion"):
        raise ValueError(
            f"`{name}` has the columns {sorted(column_names)}: TRL takes a row with `prompt` for prompt and "
            f"completion, but there is no `completion`. To train on the format {fitting[0]!r}, remove that column: "
            "`dataset.remove_columns('prompt')`."
        )
    if len(fitting) > 1:
        _log_format_choice(name, tuple(fitting))
    return fitting[0]


@functools.cache  # once for all readings of a run
def _log_format_choice(name: str, fitting: tuple[str, ...]) -> None:
    logger.info(
        "`%s` has the columns of several formats (%s): %r is read, as by SFTTrainer.",
        name,
        ", ".join(fitting),
        fitting[0],
    )
