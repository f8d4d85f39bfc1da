"""The columns of a dataset, the format that is read from them, and why."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

from nuggets_trainer.config.column_mapping import ColumnMapping
from nuggets_trainer.data.formats import FORMATS, OPTIONAL, fitting_formats
from nuggets_trainer.data.messages import KEPT_ROLES, SHAREGPT_ROLES
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.read_row import CONVERSATION_COLUMNS, roles_of
from nuggets_trainer.inspection.facts import ColumnFact, FormatFact

if TYPE_CHECKING:
    from datasets import Dataset

EXAMPLE_CHARACTERS = 200
LOOKED_AT = 1000  # rows that are read until a value is found that is not null


def column_facts(
    dataset: Dataset, row_format: str | None, mapping: ColumnMapping | None, text_field: str
) -> tuple[ColumnFact, ...]:
    """Describe the columns of a dataset.

    Args:
        dataset: rows as the user has them.
        row_format: format that is read; None if there is none.
        mapping: mapping of the columns; None without one.
        text_field: column of the format `text`.
    """
    own: dict[str, str] = {}
    if mapping is not None:
        own = {column: standard for standard, column in mapping.columns.items()}
    read = {*_read_columns(row_format, text_field), *own.values()}
    head = dataset.with_format(None)[: min(LOOKED_AT, len(dataset))]
    facts = []
    for name in dataset.column_names:
        standard = own.get(name, name)
        is_read = row_format == "formatting_func"  # the function may read any column
        is_read |= standard in read and (name in own or standard not in own.values())
        facts.append(
            ColumnFact(name, _kind(dataset.features[name]), standard if is_read else None, _first(head[name]))
        )
    return tuple(facts)


def format_fact(
    pool: Pool,
    mapping: ColumnMapping | None,
    implied: ColumnMapping | None,
    guessed: tuple[str, ...],
    looked_at: list[int],
) -> FormatFact:
    """Say which format is read and why.

    Args:
        pool: rows under their standard names.
        mapping: mapping of the columns; None without one.
        implied: mapping of columns with standard names whose values have another form; None if there are none.
        guessed: words of the mapping if it was guessed; empty if the user gave it.
        looked_at: pool indices of the rows whose roles are counted.
    """
    roles: dict[str, int] = {}
    if pool.format not in CONVERSATION_COLUMNS:
        looked_at = []  # reading records would take as long as everything else here
    for i in looked_at:
        for role in roles_of(pool.record(i), pool.format):
            roles[role] = roles.get(role, 0) + 1
    renamed: dict[str, str] = {}
    unknown: list[str] = []
    for role in roles:
        if role in SHAREGPT_ROLES:
            renamed[role] = SHAREGPT_ROLES[role]
        elif role not in KEPT_ROLES:
            unknown.append(role)
    why = _why(pool, mapping, implied, guessed)
    return FormatFact(pool.format, why, guessed, roles, renamed, tuple(unknown))


def _read_columns(row_format: str | None, text_field: str) -> set[str]:
    if row_format is None or row_format == "formatting_func":
        return set()
    if row_format == "text":
        return {text_field}
    return {*FORMATS[row_format], *OPTIONAL[row_format]}


def _why(pool: Pool, mapping: ColumnMapping | None, implied: ColumnMapping | None, guessed: tuple[str, ...]) -> str:
    if pool.formatting_func is not None:
        return "a `formatting_func` writes each row"
    if guessed:
        return f"guessed from the names of the columns. A run needs `--columns {shlex.join(guessed)}`"
    if mapping is not None:
        pairs = []
        for standard, column in mapping.columns.items():
            pairs.append(f"`{column}` is `{standard}`")
        return f"`columns` says so: {', '.join(pairs) or 'keys and roles of `messages`'}"
    if implied is not None and implied.format == "messages":
        return f"it has the column `{implied.columns['messages']}`, which holds messages as JSON text"
    needed = (pool.text_field,) if pool.format == "text" else FORMATS[pool.format]
    names = " and ".join(f"`{name}`" for name in needed)
    why = f"it has the column{'s' if len(needed) > 1 else ''} {names}"
    others = fitting_formats(pool.dataset.column_names, pool.text_field)
    others.remove(pool.format)
    if others:
        why += f". {', '.join(others)} would also fit, but SFTTrainer trains on {pool.format}"
    if pool.format == "prompt_completion" and pool.is_conversational:
        why += ", which hold messages"
    return why


def _kind(feature: Any) -> str:
    """Name a type as a reader would: `text`, `int64`, `list of messages`."""
    dtype = getattr(feature, "dtype", None)
    if dtype in ("string", "large_string"):
        return "text"
    inner = getattr(feature, "feature", None)
    if isinstance(inner, dict):
        return f"list of {{{', '.join(inner)}}}"
    if inner is not None:
        return f"list of {_kind(inner)}"
    return str(dtype or type(feature).__name__)


def _first(values: list[Any]) -> str:
    """Return the first value that is not empty, as text."""
    for value in values:
        if value is None or value in ("", []):
            continue
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        return " ".join(text[:EXAMPLE_CHARACTERS].split())
    return ""
