"""Rows with Alpaca columns are told from all others, and turned into what TRL takes."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset

from nuggets_trainer.data.formats import FORMATS, detect_format
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.prompts.chat import ChatTemplate
from nuggets_trainer.prompts.nuggets import NuggetsTemplate
from nuggets_trainer.prompts.plain import PlainTemplate
from nuggets_trainer.prompts.templates import resolve_alpaca_template
from nuggets_trainer.prompts.trl_columns import alpaca_to_trl, in_trl_columns, is_alpaca, train_columns
from tests.support.messages import ASSISTANT, SYSTEM, USER, message, spoken
from tests.support.renderings import alpaca

ROW = {"instruction": "Say", "input": "red", "output": "one", "source": "x"}


@pytest.mark.parametrize("row_format", list(FORMATS))
def test_other_columns_count_as_they_do_for_a_pool(row_format):
    columns = [*FORMATS["alpaca"], *FORMATS[row_format]]
    assert is_alpaca(columns) == (detect_format(columns, "pool") == "alpaca")


def test_a_stream_without_known_columns_is_not_alpaca():
    assert not is_alpaca(None)
    assert not is_alpaca(["instruction"])


def test_columns_that_trl_trains_on_are_not_converted():
    columns = ["instruction", "output", "content"]
    assert is_alpaca(columns)
    assert not is_alpaca(columns, "content")
    assert not is_alpaca([*columns, "text"]) and is_alpaca([*columns, "text"], "other")


@pytest.mark.parametrize(
    ("name", "has_chat_template", "expected"),
    [("auto", True, "chat"), ("auto", False, "plain"), ("nuggets", True, "nuggets")],
)
def test_auto_is_chat_if_there_is_a_chat_template(name, has_chat_template, expected):
    assert resolve_alpaca_template(name, has_chat_template) == expected


def test_alpaca_columns_are_replaced_the_others_stay():
    found = alpaca_to_trl(Dataset.from_list([ROW]), "plain")
    assert found[0] == {"source": "x", "prompt": "Say\n\nred\n\n", "completion": "one"}
    chat = alpaca_to_trl(Dataset.from_list([ROW]), "chat")
    assert chat[0]["prompt"] == [{"role": "user", "content": "Say\n\nred"}]


def test_an_unusable_row_is_named():
    with pytest.raises(
        ValueError, match=r"Row 1 \(Alpaca columns\) cannot be trained or evaluated on: empty_completion"
    ):
        alpaca_to_trl(Dataset.from_list([ROW, {**ROW, "output": " "}]), "plain")


def test_trl_is_given_alpaca_rows_as_they_were_scored(loaded):
    tokenizer = loaded("demo")
    row = alpaca({"instruction": " Say ", "input": " red\n", "output": " one \n"})
    assert train_columns("chat", row) == {
        "prompt": [{"role": "user", "content": "Say\n\nred"}],
        "completion": [{"role": "assistant", "content": "one"}],
    }
    assert train_columns("plain", row) == {"prompt": "Say\n\nred\n\n", "completion": "one"}
    nuggets = train_columns("nuggets", row)
    assert nuggets == {"prompt": "Instruction:\nSay\nInput:\nred\nResponse:\n", "completion": "one"}
    scored = NuggetsTemplate(tokenizer).zero_shot(row)
    assert tokenizer(nuggets["prompt"] + nuggets["completion"], add_special_tokens=False)["input_ids"] == scored.ids
    chat = train_columns("chat", row)
    text = tokenizer.apply_chat_template([*chat["prompt"], *chat["completion"]], tokenize=False)
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == ChatTemplate(tokenizer).zero_shot(row).ids


def test_rows_that_trl_reads_alike_are_not_touched():
    turns = [message(USER, "a"), message(ASSISTANT, "b")]
    for row in (
        {"conversations": [spoken(USER, "a"), spoken(ASSISTANT, "b")]},
        {"messages": turns, "system": "s"},
        {"prompt": turns[:1], "completion": turns[1:]},
        {"prompt": "a", "completion": "b"},
        {"text": "a"},
        {"input_ids": [1, 2], "conversations": [spoken("human", "a")]},
    ):
        rows = Dataset.from_list([row])
        assert in_trl_columns(rows, "chat") is rows


def test_sharegpts_roles_are_renamed_for_trl():
    turns = [message(SYSTEM, "s"), message(USER, "a"), message(ASSISTANT, "b")]
    spoken_turns = [spoken("human", "a"), spoken("gpt", "b")]
    rows = Dataset.from_list([{"conversations": spoken_turns, "system": "s", "tools": "", "source": "x"}])
    found = in_trl_columns(rows, "chat")
    assert [*map(shown, found[0]["messages"])] == turns
    assert found[0]["source"] == "x" and found[0]["tools"] is None and "conversations" not in found.column_names
    renamed = [{**turn, "role": role} for turn, role in zip(turns[1:], ("human", "gpt"), strict=True)]
    found = in_trl_columns(Dataset.from_list([{"messages": turns}, {"messages": renamed}]), "chat")
    assert [*map(shown, found[1]["messages"])] == turns[1:]
    parts = in_trl_columns(Dataset.from_list([{"prompt": renamed[:1], "completion": renamed[1:]}]), "chat")
    assert [*map(shown, [*parts[0]["prompt"], *parts[0]["completion"]])] == turns[1:]


def test_each_tool_call_keeps_its_own_arguments():
    """Arrow would give each call the arguments of all others, and a template would write them as null."""
    calls = ['{"name": "f", "arguments": {"a": 1, "b": "x"}}', '{"name": "g", "arguments": {"c": [1, "y"]}}']
    rows = [{"conversations": [spoken("human", "q"), spoken("function_call", call)]} for call in calls]
    found = in_trl_columns(Dataset.from_list([*rows, *[rows[0]] * 1200, rows[1]]), "chat")
    for i in (0, 1, 1201, 1202):
        call = found[i]["messages"][1]["tool_calls"][0]["function"]
        assert call == json.loads(calls[i % 2 if i < 2 else int(i == 1202)])


def test_an_evaluation_row_of_an_unknown_role_is_named():
    rows = [{"conversations": [spoken("human", "a"), spoken("gpt", "b")]}, {"conversations": [spoken("Q", "a")]}]
    with pytest.raises(ValueError, match=r"Row 1 \(sharegpt\) cannot be trained or evaluated on: unknown_role"):
        in_trl_columns(Dataset.from_list(rows), "chat")


def test_system_and_history_are_trained_on_as_they_are_scored(loaded):
    record = {**ROW, "system": "Be brief.", "history": [["a", "b"]]}
    rows = Dataset.from_list([record, {**ROW, "system": None, "history": None}])
    turns = [message(SYSTEM, "Be brief."), message(USER, "a"), message(ASSISTANT, "b"), message(USER, "Say\n\nred")]
    found = alpaca_to_trl(rows, "chat")
    assert found[0] == {"source": "x", "prompt": turns, "completion": [message(ASSISTANT, "one")]}
    assert found[1]["prompt"] == turns[-1:]
    text = alpaca_to_trl(rows, "plain")
    assert text[0]["prompt"] == "Be brief.\n\na\n\nb\n\nSay\n\nred\n\n"
    assert text[1]["prompt"] == "Say\n\nred\n\n"
    paper = alpaca_to_trl(rows, "nuggets")
    expected = "Instruction:\nBe brief.\n\na\n\nb\n\nSay\nInput:\nred\nResponse:\n"
    assert (paper[0]["prompt"], paper[0]["completion"]) == (expected, "one")
    tokenizer = loaded("demo")
    for name, template in (("plain", PlainTemplate), ("nuggets", NuggetsTemplate), ("chat", ChatTemplate)):
        ids = template(tokenizer).zero_shot(Pool(rows)[0]).ids
        assert tokenizer.decode(ids).count("Be brief.") == 1, name


def shown(turn):
    """A message without the nulls that Arrow adds, which transformers drops."""
    return {key: value for key, value in turn.items() if value is not None}


def test_columns_of_preferences_are_not_given_to_trl():
    """TRL told the format by one of them, another one in each process, and failed on conversations."""
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    for row in ({"messages": messages}, {"instruction": "a", "output": "b"}, {"prompt": "a", "completion": "b"}):
        rows = Dataset.from_list([{**row, "chosen": "b", "rejected": "c", "source": "d"}])
        given = in_trl_columns(rows, "chat")
        assert "source" in given.column_names and not {"chosen", "rejected"} & set(given.column_names)
        assert {"chosen", "rejected"} <= set(Pool(rows).dataset.column_names)  # the pool keeps its columns
