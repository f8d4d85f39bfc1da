"""The few lines by which other programs find a golden set's file: LLaMA-Factory, axolotl and ms-swift.

Each entry names the columns, because the defaults of the programs differ. How a program joins Alpaca's columns to one
prompt is its own choice, and can differ from the prompt that was scored.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAMS = {"llama_factory": "LLaMA-Factory", "axolotl": "axolotl", "ms_swift": "ms-swift"}
MESSAGES, SHAREGPT = ("role", "content", "user", "assistant"), ("from", "value", "human", "gpt")
READABLE = ("alpaca", "messages", "prompt_completion", "sharegpt")


@dataclass(frozen=True)
class RowFile:
    """A file of rows, as far as an entry depends on it.

    Attributes:
        path: path of the file.
        row_format: format of the rows, see `data.formats.FORMATS`.
        columns: names of the columns.
        nested: names of the columns that hold lists or records.
        first: values of the first row by column, which says how its messages call keys and roles; None if unknown.
    """

    path: Path
    row_format: str
    columns: frozenset[str]
    nested: frozenset[str]
    first: Mapping[str, Any] | None = None

    @property
    def conversation(self) -> str:
        """Name of the column with messages."""
        return "conversations" if self.row_format == "sharegpt" else "messages"

    @property
    def message_names(self) -> tuple[str, str, str, str]:
        """What messages call the keys of role and content, and the roles of user and assistant."""
        names = SHAREGPT if self.row_format == "sharegpt" else MESSAGES
        messages = (self.first or {}).get(self.conversation)
        if not isinstance(messages, list):
            return names
        in_sharegpt = any(message.get("from") is not None for message in messages)
        role, content = (SHAREGPT if in_sharegpt else MESSAGES)[:2]
        roles = {message.get(role) for message in messages}
        asks, answers = names[2:]
        for own in (MESSAGES, SHAREGPT):
            asks = own[2] if own[2] in roles else asks
            answers = own[3] if own[3] in roles else answers
        return role, content, asks, answers

    def present(self, **columns: str) -> dict[str, str]:
        """Return those of some columns that the file has, by what a program calls them."""
        return {name: column for name, column in columns.items() if column in self.columns}


def check_programs(programs: Iterable[str]) -> None:
    """Refuse the name of a program that there is no entry for.

    Raises:
        ValueError: if a name is not one of `PROGRAMS`.
    """
    for program in programs:
        if program not in PROGRAMS:
            raise ValueError(f"`entry_for` must be one of {', '.join(PROGRAMS)}, got {program!r}.")


def check_format(rows: RowFile) -> None:
    """Refuse rows that the programs do not read as instruction and answer.

    Raises:
        ValueError: if the format has no entry, or holds messages outside of one list.
    """
    if rows.row_format not in READABLE:
        raise ValueError(
            f"`entry_for` needs rows with an answer, in one of the formats {', '.join(READABLE)}, but the pool is "
            f"read as {rows.row_format!r}. Drop `entry_for`."
        )
    if rows.row_format == "prompt_completion" and rows.nested & {"prompt", "completion"}:
        raise ValueError(
            "`entry_for` cannot describe `prompt` and `completion` that are lists of messages: the other programs "
            "read one list. Put both lists into a column `messages` of the pool, or drop `entry_for`."
        )


def check_entry(program: str, rows: RowFile) -> None:
    """Refuse what `write_entry` would refuse, before the rows are written.

    Raises:
        ValueError: if there is a `dataset_info.json` that does not list datasets by name.
    """
    _WRITERS[program](rows)


def write_entry(program: str, rows: RowFile) -> Path:
    """Write the entry of one program beside the rows, and return its file.

    LLaMA-Factory reads `dataset_info.json` of a directory; other datasets that are listed there stay listed.

    Raises:
        ValueError: if there is a `dataset_info.json` that does not list datasets by name.
    """
    path, text = _WRITERS[program](rows)
    path.write_text(text, encoding="utf-8")
    return path


def how_to_use(program: str, rows: RowFile, entry: Path) -> str:
    """Say what to write into the program's own configuration or command."""
    if program == "llama_factory":
        return f"LLaMA-Factory: `dataset_dir: {entry.parent}`, `dataset: {rows.path.stem}`"
    if program == "axolotl":
        left_out = ""
        if rows.row_format == "alpaca" and "history" in rows.columns:
            left_out = "; it reads no `history`, so earlier turns are not trained on"
        return f"axolotl: copy the lines of {entry} into the config{left_out}"
    words = shlex.join(["--custom_dataset_info", str(entry), "--dataset", str(rows.path)])
    return f"ms-swift: `swift sft {words} ...`"


def _llama_factory(rows: RowFile) -> tuple[Path, str]:
    entry: dict[str, Any] = {"file_name": rows.path.name}
    if rows.row_format == "alpaca":
        columns = {"prompt": "instruction", "query": "input", "response": "output"}
        entry |= {"formatting": "alpaca", "columns": rows.present(**columns, system="system", history="history")}
    elif rows.row_format == "prompt_completion":
        entry |= {"formatting": "alpaca", "columns": {"prompt": "prompt", "response": "completion"}}
    else:
        _check_tools(rows)
        tags = dict(zip(("role_tag", "content_tag", "user_tag", "assistant_tag"), rows.message_names, strict=True))
        # A tag that is not given is no tag, and LLaMA-Factory skips a conversation with a role that has none.
        tags |= {"observation_tag": "observation" if tags["role_tag"] == "from" else "tool"}
        tags |= {"function_tag": "function_call", "system_tag": "system"}
        columns = {"messages": rows.conversation, **rows.present(system="system", tools="tools")}
        entry |= {"formatting": "sharegpt", "columns": columns, "tags": tags}
    path = rows.path.with_name("dataset_info.json")
    listed = {**_listed_datasets(path), rows.path.stem: entry}
    return path, json.dumps(listed, indent=2, ensure_ascii=False) + "\n"


def _check_tools(rows: RowFile) -> None:
    """Refuse tools that LLaMA-Factory does not read: it parses a text, and takes calls from what a message says.

    Raises:
        ValueError: if the column of tools is no text, or the first row has calls beside its text.
    """
    if "tools" in rows.nested:
        raise ValueError(
            "`entry_for llama_factory` needs `tools` as JSON text, but the column holds lists. Write them with "
            "`json.dumps` in the pool, or drop the column."
        )
    messages = (rows.first or {}).get(rows.conversation)
    if isinstance(messages, list) and any(message.get("tool_calls") for message in messages):
        raise ValueError(
            "`entry_for llama_factory` cannot describe `tool_calls`, which LLaMA-Factory does not read. Give "
            "ShareGPT's `conversations` with the role `function_call`, or drop `entry_for`."
        )


def _listed_datasets(path: Path) -> dict[str, Any]:
    """Return the entries of a `dataset_info.json`; none if it is not there."""
    if not path.exists():
        return {}
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}. Mend or remove it, or write to another directory.") from error
    if not isinstance(listed, dict):
        raise ValueError(f"{path} must list datasets by name, as LLaMA-Factory reads it. Write to another directory.")
    return listed


def _axolotl(rows: RowFile) -> tuple[Path, str]:
    lines = ["datasets:", f"  - path: {json.dumps(str(rows.path.absolute()))}"]
    lines.append(f"    ds_type: {rows.path.suffix.removeprefix('.').replace('jsonl', 'json')}")
    if rows.row_format == "alpaca":
        with_system = "system" in rows.columns
        lines.append(f"    type: {'alpaca_w_system.load_instruct' if with_system else 'alpaca'}")
    elif rows.row_format == "prompt_completion":
        lines += ["    type:", "      field_instruction: prompt", "      field_output: completion"]
        lines += ['      format: "{instruction}"', '      no_input_format: "{instruction}"']
    else:
        role, content, _, _ = rows.message_names
        lines += ["    type: chat_template", f"    field_messages: {rows.conversation}"]
        lines += ["    message_property_mappings:"]
        lines += [f"      role: {role}", f"      content: {content}"]
    return rows.path.with_suffix(".axolotl.yaml"), "".join(f"{line}\n" for line in lines)


def _ms_swift(rows: RowFile) -> tuple[Path, str]:
    columns = {
        "alpaca": {},
        "prompt_completion": {"prompt": "query", "completion": "response"},
        "messages": {},
        "sharegpt": {"conversations": "messages"},
    }[rows.row_format]
    entry: dict[str, Any] = {"dataset_path": rows.path.name}  # beside the entry
    if columns:
        entry["columns"] = columns
    return rows.path.with_suffix(".ms_swift.json"), json.dumps([entry], indent=2, ensure_ascii=False) + "\n"


_WRITERS: dict[str, Callable[[RowFile], tuple[Path, str]]] = {
    "llama_factory": _llama_factory,
    "axolotl": _axolotl,
    "ms_swift": _ms_swift,
}
