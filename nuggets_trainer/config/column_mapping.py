"""`ColumnMapping`: which column of a dataset is which, such as `prompt=question completion=answer`."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# The columns of each format: those that a row must have, and those that it may have.
NEEDED = {
    "prompt_completion": ("prompt", "completion"),
    "messages": ("messages",),
    "text": ("text",),
    "alpaca": ("instruction", "output"),
}
ALLOWED = {
    "prompt_completion": ("system", "tools"),
    "messages": ("system", "tools"),
    "text": (),
    "alpaca": ("input", "system", "tools"),
}
SHARED = {"system", "tools"}  # columns of several formats
IN_MESSAGES = ("role", "content")
ROLES = ("system", "user", "assistant", "tool")
ROLE_PREFIX = "role."
NAMES = (
    *("prompt", "completion", "messages", "system", "text", "instruction", "input", "output", "tools"),
    *IN_MESSAGES,
    *(ROLE_PREFIX + role for role in ROLES),
)
EXAMPLE = "prompt=question completion=answer"


@dataclass(frozen=True)
class ColumnMapping:
    """Which column of a dataset is which, and what is called how inside messages.

    Attributes:
        format: format that the rows get: `prompt_completion`, `messages`, `text` or `alpaca`.
        columns: column of the dataset by standard name.
        keys: standard key of a message, `role` or `content`, by the key that the dataset has.
        roles: standard role by the role that the dataset has.
    """

    format: str
    columns: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)

    @property
    def needed(self) -> tuple[str, ...]:
        """Standard names of the columns that a row must have."""
        return NEEDED[self.format]

    @property
    def known(self) -> tuple[str, ...]:
        """Standard names of the columns that a row may have."""
        return (*NEEDED[self.format], *ALLOWED[self.format])

    def renames_any_of(self, column_names: Iterable[str]) -> bool:
        """Whether one of these columns has a name of its own that the mapping replaces."""
        own = set(self.columns.values()).difference(self.columns)
        return not own.isdisjoint(column_names)

    def misspelt(self, column_names: Iterable[str]) -> list[str]:
        """Return standard names whose columns are not there, of rows that are not mapped yet, as others of them show.

        A column that has such a standard name is another one.
        """
        names = set(column_names)
        if not self.renames_any_of(names):
            return []
        return [standard for standard, own in self.columns.items() if own not in names]

    def takes_key(self, key: str, message: Mapping[str, Any]) -> bool:
        """Whether another key of a message becomes this one.

        Args:
            key: standard key, such as `content`.
            message: message as the dataset has it.
        """
        return any(standard == key and own in message for own, standard in self.keys.items())


def read_column_mapping(value: Any, option: str = "columns") -> ColumnMapping | None:
    """Read the option `columns`: words such as `prompt=question`, in a list or a text, or a mapping.

    Args:
        value: value of the option. A mapping has standard names as keys; `role.user` and the like may have a list.
        option: name of the option in errors.

    Returns:
        The mapping; None without one.

    Raises:
        ValueError, TypeError: if a name is no standard name, if two formats are mixed, if rows that are mapped twice
            would change again, or if it is something else.

    Example:
        >>> read_column_mapping(["prompt=question", "completion=answer"]).columns
        {'prompt': 'question', 'completion': 'answer'}
        >>> read_column_mapping({"messages": "turns", "role": "who", "role.user": ["customer", "client"]}).roles
        {'customer': 'user', 'client': 'user'}
    """
    if value is None:
        return None
    columns: dict[str, str] = {}
    keys: dict[str, str] = {}
    roles: dict[str, str] = {}
    for name, own in _pairs(value, option):
        if name.startswith(ROLE_PREFIX):
            for role in own.split(","):
                roles[role.strip()] = name.removeprefix(ROLE_PREFIX)
        elif name in IN_MESSAGES:
            keys[own] = name
        else:
            columns[name] = own
    for name, own in columns.items():
        if own != name and own in columns:  # mapped twice, such rows would change again
            raise ValueError(
                f"`{option}` takes `{name}` from the column {own!r}, and gives that name to another column. Rename "
                "one of the two in the dataset first."
            )
    for kind, renamed in (("key", keys), ("role", roles)):
        for own, standard in renamed.items():
            if own != standard and own in renamed.values():  # the same
                raise ValueError(
                    f"`{option}` reads the {kind} {own!r} as {standard!r}, and another {kind} as {own!r}. Rename one "
                    "of the two in the dataset first."
                )
    mapping = ColumnMapping(_format(columns, option), columns, keys, roles)
    if (keys or roles) and mapping.format in ("text", "alpaca"):
        raise ValueError(
            f"`{option}` names what is inside messages ({', '.join([*keys.values(), *roles.values()])}), but rows "
            f"with the columns {' and '.join(mapping.needed)} have no messages. Map `messages`, or leave these names "
            "out."
        )
    return mapping


def _pairs(value: Any, option: str) -> list[tuple[str, str]]:
    """Return standard names and what the dataset has for them.

    Raises:
        ValueError, TypeError: for a name that is unknown or stands twice, and for an empty column.
    """
    pairs: list[tuple[str, str]] = []
    if isinstance(value, dict):
        for name, own in value.items():
            if isinstance(own, list):
                own = ",".join(map(str, own))
            pairs.append((str(name), str(own or "")))
    else:
        pairs = [_pair(word, option) for word in _words(value, option)]
    seen: set[str] = set()
    for name, own in pairs:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            raise ValueError(f"`{option}` must map to {', '.join(NAMES)}, got {name!r}.{hint} Write e.g. `{EXAMPLE}`.")
        if name in seen:
            raise ValueError(f"`{option}` names `{name}` twice. Keep one.")
        if not own.strip():
            raise ValueError(f"`{option}` must name a column for `{name}`, got nothing. Write e.g. `{EXAMPLE}`.")
        seen.add(name)
    if not pairs:
        raise ValueError(f"`{option}` is empty. Write e.g. `{EXAMPLE}`, or leave it out.")
    return pairs


def _words(value: Any, option: str) -> list[str]:
    if isinstance(value, str):
        return shlex.split(value)
    if not isinstance(value, Iterable) or not all(isinstance(word, str) for word in value):
        raise TypeError(f"`{option}` must be words such as `{EXAMPLE}`, or a mapping, got {value!r}.")
    return list(value)


def _pair(word: str, option: str) -> tuple[str, str]:
    name, equals, own = word.partition("=")
    if not equals:
        raise ValueError(f"`{option}` must be words such as `{EXAMPLE}`, got {word!r}, which has no `=`.")
    return name.strip(), own


def _format(columns: dict[str, str], option: str) -> str:
    """Find the one format whose columns are mapped; names inside messages alone mean `messages`.

    Raises:
        ValueError: if columns of two formats are mapped.
    """
    fitting = []
    formats = []
    for row_format, needed in NEEDED.items():
        of_format = {*needed, *ALLOWED[row_format]} - SHARED
        if not of_format.isdisjoint(columns):
            fitting.append(row_format)
            formats.append(" and ".join(f"`{name}`" for name in needed))
    if len(fitting) > 1:
        raise ValueError(
            f"`{option}` maps to {', '.join(columns)}, which belong to several formats. Map to "
            f"{' or '.join(formats)}, not to both."
        )
    return next(iter(fitting), "messages")
