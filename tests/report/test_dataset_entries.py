"""The dataset entries of other programs name the file and its columns, in each program's own words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from datasets import Dataset

from nuggets_trainer.commands.select import described_rows
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.report.dataset_entries import (
    PROGRAMS,
    READABLE,
    RowFile,
    check_format,
    check_programs,
    how_to_use,
    write_entry,
)

COLUMNS = {
    "alpaca": {"instruction", "input", "output", "system", "source"},
    "messages": {"messages", "tools"},
    "prompt_completion": {"prompt", "completion"},
    "sharegpt": {"conversations", "system"},
}


def row_file(folder: Path, row_format: str, name: str = "golden.jsonl", nested=()) -> RowFile:
    return RowFile(folder / name, row_format, frozenset(COLUMNS[row_format]), frozenset(nested))


LLAMA_FACTORY = {
    "alpaca": {
        "formatting": "alpaca",
        "columns": {"prompt": "instruction", "query": "input", "response": "output", "system": "system"},
    },
    "prompt_completion": {"formatting": "alpaca", "columns": {"prompt": "prompt", "response": "completion"}},
    "messages": {
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "tools": "tools"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "observation_tag": "tool",
            "function_tag": "function_call",
            "system_tag": "system",
        },
    },
    "sharegpt": {
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "system": "system"},
        "tags": {
            "role_tag": "from",
            "content_tag": "value",
            "user_tag": "human",
            "assistant_tag": "gpt",
            "observation_tag": "observation",
            "function_tag": "function_call",
            "system_tag": "system",
        },
    },
}
CHAT = {"type": "chat_template"}
AXOLOTL = {
    "alpaca": {"type": "alpaca_w_system.load_instruct"},
    "prompt_completion": {
        "type": {
            "field_instruction": "prompt",
            "field_output": "completion",
            "format": "{instruction}",
            "no_input_format": "{instruction}",
        }
    },
    "messages": {
        **CHAT,
        "field_messages": "messages",
        "message_property_mappings": {"role": "role", "content": "content"},
    },
    "sharegpt": {
        **CHAT,
        "field_messages": "conversations",
        "message_property_mappings": {"role": "from", "content": "value"},
    },
}
MS_SWIFT = {
    "alpaca": {},
    "prompt_completion": {"columns": {"prompt": "query", "completion": "response"}},
    "messages": {},
    "sharegpt": {"columns": {"conversations": "messages"}},
}


@pytest.mark.parametrize("row_format", READABLE)
def test_an_entry_names_the_columns(row_format, tmp_path):
    rows = row_file(tmp_path, row_format)
    check_format(rows)
    for program in PROGRAMS:
        write_entry(program, rows)
    listed = json.loads((tmp_path / "dataset_info.json").read_text())
    assert listed == {"golden": {"file_name": "golden.jsonl", **LLAMA_FACTORY[row_format]}}
    (entry,) = yaml.safe_load((tmp_path / "golden.axolotl.yaml").read_text())["datasets"]
    assert entry == {"path": str(tmp_path / "golden.jsonl"), "ds_type": "json", **AXOLOTL[row_format]}
    (entry,) = json.loads((tmp_path / "golden.ms_swift.json").read_text())
    assert entry == {"dataset_path": "golden.jsonl", **MS_SWIFT[row_format]}


@pytest.mark.parametrize(
    ("row_format", "names"),
    [
        ("messages", ("from", "value", "human", "gpt")),
        ("messages", ("role", "content", "human", "gpt")),
        ("sharegpt", ("from", "value", "user", "assistant")),
        ("messages", ("from", "value", "user", "assistant")),
    ],
)
def test_an_entry_has_the_names_that_the_messages_use(row_format, names, tmp_path):
    """The name of the column decided, so a column `messages` with ShareGPT's names got the wrong tags."""
    role, content, asks, answers = names
    column = {"messages": "messages", "sharegpt": "conversations"}[row_format]
    first = {column: [{role: asks, content: "Which?"}, {role: answers, content: "This."}]}
    rows = described_rows(Pool(Dataset.from_list([{"number": "1", **first}])), str(tmp_path / "golden.jsonl"), [0])
    assert rows.row_format == row_format
    tags = json.loads(write_entry("llama_factory", rows).read_text())["golden"]["tags"]
    assert tuple(tags[f"{name}_tag"] for name in ("role", "content", "user", "assistant")) == names
    (entry,) = yaml.safe_load(write_entry("axolotl", rows).read_text())["datasets"]
    assert entry["message_property_mappings"] == {"role": role, "content": content}


def test_other_datasets_stay_listed(tmp_path):
    (tmp_path / "dataset_info.json").write_text('{"mine": {"file_name": "mine.json"}, "golden": {}}')
    path = write_entry("llama_factory", row_file(tmp_path, "alpaca", "golden.parquet"))
    listed = json.loads(path.read_text())
    assert listed["mine"] == {"file_name": "mine.json"} and listed["golden"]["file_name"] == "golden.parquet"
    (tmp_path / "dataset_info.json").write_text("[]")
    with pytest.raises(ValueError, match="must list datasets by name"):
        write_entry("llama_factory", row_file(tmp_path, "alpaca"))


@pytest.mark.parametrize("ending", ["parquet", "csv", "json"])
def test_axolotl_is_told_the_type_of_file(ending, tmp_path):
    path = write_entry("axolotl", row_file(tmp_path, "alpaca", f"golden.{ending}"))
    assert yaml.safe_load(path.read_text())["datasets"][0]["ds_type"] == ending


def test_what_others_cannot_read_is_refused(tmp_path):
    with pytest.raises(ValueError, match="lists of messages"):
        check_format(row_file(tmp_path, "prompt_completion", nested={"prompt", "completion"}))
    for row_format in ("text", "tokenized"):
        with pytest.raises(ValueError, match=f"the pool is read as '{row_format}'"):
            check_format(RowFile(tmp_path / "a.jsonl", row_format, frozenset(), frozenset()))
    with pytest.raises(ValueError, match="must be one of llama_factory, axolotl, ms_swift, got 'trl'"):
        check_programs(["axolotl", "trl"])


def test_tools_that_llama_factory_does_not_read_are_refused(tmp_path):
    """It parses the column of tools as text, and skips calls that stand beside what a message says."""
    with pytest.raises(ValueError, match="needs `tools` as JSON text"):
        write_entry("llama_factory", row_file(tmp_path, "messages", nested={"messages", "tools"}))
    called = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": [{"type": "f"}]}]}
    rows = RowFile(tmp_path / "a.jsonl", "messages", frozenset(called), frozenset(called), called)
    with pytest.raises(ValueError, match="cannot describe `tool_calls`"):
        write_entry("llama_factory", rows)
    assert not list(tmp_path.iterdir())
    assert write_entry("ms_swift", rows).exists()


def test_axolotl_reads_a_system_column_and_no_history(tmp_path):
    columns = frozenset({"instruction", "output", "history"})
    rows = RowFile(tmp_path / "a.jsonl", "alpaca", columns, frozenset({"history"}))
    entry = write_entry("axolotl", rows)
    assert yaml.safe_load(entry.read_text())["datasets"][0]["type"] == "alpaca"
    assert "it reads no `history`" in how_to_use("axolotl", rows, entry)
