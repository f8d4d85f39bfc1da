"""A record of every format becomes the same row, or has a named reason why it is unusable."""

from __future__ import annotations

import json
import re

import pytest
from datasets import Dataset
from trl.data_utils import maybe_convert_to_chatml

from nuggets_trainer.data.formats import FORMATS
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.read_row import formatted_row, read_row
from nuggets_trainer.data.row import Row, UnusableRowError, joined_text
from tests.support.messages import ASSISTANT, SYSTEM, USER, message, spoken


def reason_of(record: dict[str, object], row_format: str) -> str | None:
    try:
        read_row(record, row_format)
    except UnusableRowError as error:
        return str(error)
    return None


def test_alpaca_fields_are_stripped_and_joined():
    pool = Pool(
        Dataset.from_list(
            [
                {"instruction": " Say it \n", "input": "\tred ", "output": " one\n"},
                {"instruction": "Say it", "input": "  ", "output": "one"},
                {"instruction": "Say it", "input": None, "output": "one"},
            ]
        )
    )
    assert pool.format == "alpaca"
    assert pool[0] == Row("Say it\n\nred", "one", separator="\n\n", alpaca=("Say it", "red"))
    assert pool[1] == pool[2] == Row("Say it", "one", separator="\n\n", alpaca=("Say it", ""))
    assert not pool.is_conversational


def test_alpaca_rows_need_no_input_column():
    pool = Pool(Dataset.from_list([{"instruction": "Say", "output": "one"}]))
    assert pool[0] == Row("Say", "one", separator="\n\n", alpaca=("Say", ""))


def test_text_in_trls_columns_is_not_stripped():
    pool = Pool(Dataset.from_list([{"prompt": " Say it\n", "completion": "  one "}]))
    assert (pool.format, pool.is_conversational) == ("prompt_completion", False)
    assert pool[0] == Row(" Say it\n", "  one ", separator="", alpaca=None)


def test_messages_in_trls_columns_are_not_changed():
    prompt, completion = [message(SYSTEM), message(USER, " Say ")], [message(ASSISTANT, " one ")]
    pool = Pool(Dataset.from_list([{"prompt": prompt, "completion": completion}]))
    assert (pool.format, pool.is_conversational) == ("prompt_completion", True)
    assert pool[0] == Row(prompt, completion)
    assert pool[0].is_conversational


def test_the_last_message_is_the_completion():
    turns = [message(SYSTEM), message(USER, "a"), message(ASSISTANT, "b"), message(USER, "c"), message(ASSISTANT, "d")]
    pool = Pool(Dataset.from_list([{"messages": turns}]))
    assert (pool.format, pool.is_conversational) == ("messages", True)
    assert pool[0] == Row(turns[:-1], turns[-1:])


def test_a_developer_message_is_a_system_message():
    turns = [message("developer"), message(ASSISTANT)]
    assert reason_of({"messages": turns}, "messages") == "empty_prompt"


def test_null_keys_of_messages_are_dropped():
    rows = [
        {"messages": [message(USER, "a"), message(ASSISTANT, "b", reasoning_content="hm")]},
        {"messages": [message(USER, "c", name="eve"), message(ASSISTANT, "d")]},
    ]
    pool = Pool(Dataset.from_list(rows))
    assert set(pool.dataset[0]["messages"][0]) > {"role", "content"}  # Arrow did add keys
    assert pool[0] == Row(rows[0]["messages"][:1], rows[0]["messages"][1:])
    assert pool[1] == Row(rows[1]["messages"][:1], rows[1]["messages"][1:])


def test_nulls_inside_of_tools_and_calls_stay():
    """Keys with null in a message are dropped by transformers, but not those that Arrow adds further inside."""
    rows = []
    for name in ("x", "y"):
        call = {"function": {"name": "f", "arguments": {name: 1}}}
        tool = {"type": "function", "function": {"name": name}, name: {"type": "int"}}
        rows.append({"messages": [message(USER), message(ASSISTANT, tool_calls=[call])], "tools": [tool]})
    pool = Pool(Dataset.from_list(rows))
    assert pool[0].completion[0]["tool_calls"][0]["function"]["arguments"] == {"x": 1, "y": None}
    assert pool[0].tools == pool.dataset[0]["tools"]
    assert set(pool[0].tools[0]) == {"type", "function", "x", "y"}


def test_sharegpt_is_read_with_the_roles_of_templates():
    """No chat template knows `human` and `gpt`: Qwen3's shows nothing of such a candidate."""
    turns = [spoken("system", "s"), spoken("human", "a"), spoken("gpt", "b")]
    pool = Pool(Dataset.from_list([{"conversations": turns}]))
    assert (pool.format, pool.is_conversational) == ("sharegpt", True)
    assert pool[0] == Row([message(SYSTEM, "s"), message(USER, "a")], [message(ASSISTANT, "b")])
    converted = maybe_convert_to_chatml({"conversations": [dict(turn) for turn in turns]})  # keeps ShareGPT's roles
    assert read_row(converted, "messages") == pool[0]
    record = {"prompt": [spoken(USER, "a")], "completion": [spoken(ASSISTANT, "b")]}
    assert read_row(record, "prompt_completion") == Row([message(USER, "a")], [message(ASSISTANT, "b")])


def test_a_system_column_stands_before_sharegpts_turns():
    turns = [spoken("human", "a"), spoken("gpt", "b")]
    row = read_row({"conversations": turns, "system": " s "}, "sharegpt")
    assert row == read_row({"conversations": [spoken("system", "s"), *turns]}, "sharegpt")
    for own in ("system", "developer"):  # a system message of its own comes first
        spoken_first = {"conversations": [spoken(own, "own"), *turns], "system": "s"}
        assert read_row(spoken_first, "sharegpt").prompt[0] == message(own, "own")
    beside = {"messages": [message(USER, "a"), message(ASSISTANT, "b")], "system": "s"}
    assert read_row(beside, "messages").prompt == [message(USER, "a")]  # as TRL, which knows no such column


def test_alpaca_rows_have_llama_factorys_system_and_history():
    record = {"instruction": " c ", "input": "d", "output": " e ", "system": " s ", "history": [["a", "b"]]}
    turns = [message(SYSTEM, "s"), message(USER, "a"), message(ASSISTANT, "b")]
    row = read_row(record, "alpaca")
    expected = [*turns, message(USER, "c\n\nd")]
    assert row == Row(expected, [message(ASSISTANT, "e")], alpaca=("s\n\na\n\nb\n\nc", "d"))
    assert read_row({**record, "history": '[["a", "b"]]'}, "alpaca") == row  # as a .csv file holds it
    bare = {"instruction": "c", "input": "d", "output": "e"}
    for empty in ({"system": None, "history": None}, {"system": " ", "history": []}, {"history": ""}, {"tools": ""}):
        assert read_row({**bare, **empty}, "alpaca") == read_row(bare, "alpaca")
    assert read_row({**bare, "tools": [TOOL]}, "alpaca").tools == [TOOL]  # TRL renders the conversation with them


def test_parts_of_text_are_kept_and_read_as_text():
    parts = [{"type": "text", "text": "Say "}, {"type": "text", "text": "it"}]
    row = read_row({"messages": [message(USER, parts), message(ASSISTANT, "b")]}, "messages")
    assert row.prompt == [message(USER, parts)]
    assert joined_text(row.prompt) == "Say it"
    assert row.text_key == Row("Say it", "b").text_key


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def test_conversations_have_tools_and_template_options():
    turns = [message(USER, "a"), message(ASSISTANT, "b")]
    record = {"messages": turns, "tools": [TOOL], "chat_template_kwargs": {"style": "long"}}
    row = Row(turns[:1], turns[1:], tools=[TOOL], template_kwargs={"style": "long"})
    assert Pool(Dataset.from_list([record]))[0] == row
    assert read_row({**record, "tools": json.dumps([TOOL])}, "messages") == row
    parts = {"prompt": turns[:1], "completion": turns[1:], **record}
    assert read_row(parts, "prompt_completion") == row
    none = read_row({"messages": turns, "tools": None, "chat_template_kwargs": {}}, "messages")
    assert none == Row(turns[:1], turns[1:])
    text = {"prompt": "a", "completion": "b", "tools": [TOOL], "chat_template_kwargs": None}
    assert read_row(text, "prompt_completion") == Row("a", "b")  # as in TRL, which renders text without them


def test_a_tool_call_without_content_is_a_completion():
    calls = [
        [{"type": "function", "function": {"name": "look", "arguments": {"at": what}}}] for what in ("red", "blue")
    ]
    rows = [
        read_row({"messages": [message(USER, "a"), message(ASSISTANT, None, tool_calls=call)]}, "messages")
        for call in calls
    ]
    assert [row.completion for row in rows] == [[{"role": ASSISTANT, "tool_calls": call}] for call in calls]
    assert rows[0].text_key != rows[1].text_key  # no pair of a row with itself


def test_text_alone_is_all_completion():
    pool = Pool(Dataset.from_list([{"text": " Say it\n"}]))
    assert (pool.format, pool.is_conversational, pool.is_text_only) == ("text", False, True)
    assert pool[0] == Row("", " Say it\n")


def test_formatted_text_is_split_where_the_two_differ():
    assert formatted_row("abc", "ab") == Row("ab", "c")
    assert formatted_row("abcd", "abd") == Row("ab", "cd")
    assert formatted_row("one", "") == Row("", "one")


@pytest.mark.parametrize(
    ("masks", "scored"),
    [
        ({}, (1, 2, 3)),
        ({"labels": [-100, -100, 7, 8]}, (2, 3)),
        ({"labels": [5, -100, 7, -100], "completion_mask": [0, 0, 0, 1]}, (2,)),  # TRL takes labels as they are
        ({"labels": None, "completion_mask": [0, 1, 1, 0]}, (1, 2)),
        ({"assistant_masks": [1, 1, 0, 1]}, (1, 3)),
        ({"completion_mask": [0, 1, 1, 1], "assistant_masks": [1, 1, 0, 1]}, (1, 3)),
    ],
)
def test_tokens_with_loss_are_scored_except_the_first(masks, scored):
    row = read_row({"input_ids": [5, 6, 7, 8], **masks}, "tokenized", completion_only=True)
    assert row == Row("", "", tokens=((5, 6, 7, 8), scored))


@pytest.mark.parametrize("padding", [(2, 0), (0, 3), (1, 2)])
def test_padding_of_tokenized_rows_is_left_out(padding):
    """Pads stood between candidate and anchor, and were scored where there are no labels."""
    row = {"input_ids": [5, 6, 7], "labels": [-100, 6, -100], "completion_mask": [0, 1, 1]}
    left, right = padding
    padded = {name: [0] * left + value + [0] * right for name, value in row.items()}
    padded["attention_mask"] = [0] * left + [1, 1, 1] + [0] * right
    for names in (["input_ids"], ["input_ids", "labels"], ["input_ids", "completion_mask"]):
        short, long = ({name: found[name] for name in names} for found in (row, padded))
        long["attention_mask"] = padded["attention_mask"]
        keys = [read_row(found, "tokenized", completion_only=True) for found in (short, long)]
        assert keys[0] == keys[1]
    assert read_row({**row, "attention_mask": None}, "tokenized") == read_row(row, "tokenized")


DROPPED = [
    ("alpaca", {"instruction": " ", "input": "x", "output": "b"}, "empty_prompt"),
    ("alpaca", {"instruction": None, "input": "", "output": "b"}, "prompt_not_text"),
    ("alpaca", {"instruction": "a", "input": 3, "output": "b"}, "prompt_not_text"),
    ("alpaca", {"instruction": "a", "input": "", "output": "\n\t "}, "empty_completion"),
    ("alpaca", {"instruction": "a", "input": "", "output": None}, "completion_not_text"),
    ("alpaca", {"instruction": "a", "output": 7}, "completion_not_text"),
    ("prompt_completion", {"prompt": "", "completion": "b"}, "empty_prompt"),
    ("prompt_completion", {"prompt": " \n", "completion": "b"}, "empty_prompt"),
    ("prompt_completion", {"prompt": "a", "completion": " "}, "empty_completion"),
    ("prompt_completion", {"prompt": None, "completion": "b"}, "prompt_not_text"),
    ("prompt_completion", {"prompt": "a", "completion": None}, "completion_not_text"),
    ("prompt_completion", {"prompt": [message(USER)], "completion": "b"}, "prompt_not_text"),
    ("prompt_completion", {"prompt": "a", "completion": [message(ASSISTANT)]}, "completion_not_text"),
    ("prompt_completion", {"prompt": [], "completion": [message(ASSISTANT)]}, "empty_prompt"),
    ("prompt_completion", {"prompt": [message(USER)], "completion": []}, "empty_completion"),
    ("prompt_completion", {"prompt": [message(USER)], "completion": [message(ASSISTANT, " ")]}, "empty_completion"),
    ("prompt_completion", {"prompt": [message(SYSTEM)], "completion": [message(ASSISTANT)]}, "empty_prompt"),
    ("prompt_completion", {"prompt": ["a"], "completion": [message(ASSISTANT)]}, "prompt_not_messages"),
    ("prompt_completion", {"prompt": [message(USER)], "completion": ["b"]}, "completion_not_messages"),
    ("prompt_completion", {"prompt": [message(USER, 3)], "completion": [message(ASSISTANT)]}, "prompt_not_text"),
    ("messages", {"messages": None}, "prompt_not_messages"),
    ("messages", {"messages": "a"}, "prompt_not_messages"),
    ("messages", {"messages": []}, "empty_prompt"),
    ("messages", {"messages": [message(USER), message(USER)]}, "last_message_not_assistant"),
    ("messages", {"messages": [message(ASSISTANT)]}, "empty_prompt"),
    ("messages", {"messages": [message(SYSTEM), message(ASSISTANT)]}, "empty_prompt"),
    ("messages", {"messages": [message(USER, ""), message(ASSISTANT)]}, "empty_prompt"),
    ("messages", {"messages": [message(USER), message(ASSISTANT, "")]}, "empty_completion"),
    ("messages", {"messages": [message(USER), message(ASSISTANT, None)]}, "empty_completion"),
    ("messages", {"messages": [{"content": "no role"}, message(ASSISTANT)]}, "prompt_not_text"),
    ("messages", {"messages": [message(USER, ["a"]), message(ASSISTANT)]}, "prompt_not_text"),
    ("messages", {"messages": [message(USER, [{"type": "text"}]), message(ASSISTANT)]}, "prompt_not_text"),
    ("messages", {"messages": [message(USER, []), message(ASSISTANT)]}, "empty_prompt"),
    ("messages", {"messages": [message(USER, [{"type": "image"}]), message(ASSISTANT)]}, "not_text"),
    ("messages", {"messages": [message(USER), message(ASSISTANT, [{"type": "audio", "audio": "a"}])]}, "not_text"),
    ("messages", {"messages": [message(USER), message(ASSISTANT)], "tools": "no JSON"}, "tools_not_json"),
    ("messages", {"messages": [message(USER), message(ASSISTANT)], "tools": '{"a": 1}'}, "tools_not_a_list"),
    (
        "messages",
        {"messages": [message(USER), message(ASSISTANT)], "chat_template_kwargs": None},
        "chat_template_kwargs_not_a_dict",
    ),
    ("sharegpt", {"conversations": None}, "prompt_not_messages"),
    ("sharegpt", {"conversations": [spoken("human", "a"), spoken("human", "b")]}, "last_message_not_assistant"),
    ("sharegpt", {"conversations": [spoken("human", "a"), spoken("gpt", " ")]}, "empty_completion"),
    ("sharegpt", {"conversations": [spoken("bot", "a"), spoken("gpt", "b")]}, "unknown_role"),
    (
        "sharegpt",
        {"conversations": [spoken("human", "a"), spoken("function_call", "f()")]},
        "function_call_not_a_call",
    ),
    ("sharegpt", {"conversations": [spoken("human", "a"), spoken("gpt", "b")], "system": 3}, "system_not_text"),
    ("alpaca", {"instruction": "a", "output": "b", "system": ["s"]}, "system_not_text"),
    ("alpaca", {"instruction": "a", "output": "b", "history": "none"}, "history_not_pairs"),
    ("alpaca", {"instruction": "a", "output": "b", "history": [["c"]]}, "history_not_pairs"),
    ("alpaca", {"instruction": "a", "output": "b", "history": [["c", None]]}, "history_not_pairs"),
    ("text", {"text": None}, "completion_not_text"),
    ("text", {"text": " \n"}, "empty_completion"),
    ("tokenized", {"input_ids": None}, "input_ids_not_token_ids"),
    ("tokenized", {"input_ids": ["1"]}, "input_ids_not_token_ids"),
    ("tokenized", {"input_ids": []}, "empty_completion"),
    ("tokenized", {"input_ids": [3]}, "empty_completion"),
    ("tokenized", {"input_ids": [3, 4], "labels": [3, -100]}, "empty_completion"),
    ("tokenized", {"input_ids": [3, 4], "labels": [4]}, "mask_not_as_long_as_input_ids"),
    ("tokenized", {"input_ids": [3, 4], "labels": 1}, "mask_not_as_long_as_input_ids"),
    ("tokenized", {"input_ids": [3, 4], "assistant_masks": [0, 1, 1]}, "mask_not_as_long_as_input_ids"),
    ("tokenized", {"input_ids": [3, 4], "attention_mask": [1]}, "mask_not_as_long_as_input_ids"),
    ("tokenized", {"input_ids": [3, 4], "attention_mask": [0, 1]}, "empty_completion"),
    ("tokenized", {"input_ids": [3, 4, 5], "assistant_masks": [1, 0, 0]}, "empty_completion"),
]


@pytest.mark.parametrize(("row_format", "record", "reason"), DROPPED)
def test_an_unusable_row_has_a_named_reason(row_format, record, reason):
    assert reason_of(record, row_format) == reason


SCALARS = [None, 3, "", "a", [], ["a"], [None], {}, [{}], {"role": USER}, [5, 6]]
CONTENTS = [*SCALARS, [{"type": "text", "text": value} for value in ("a", None)], [{"text": "a"}], [{"type": 3}]]
CONVERSATIONS = [
    [message(USER, content), {**message(role, other), **more}]
    for content in CONTENTS
    for other in CONTENTS
    for role in (ASSISTANT, None, 3)
    for more in ({}, {"tool_calls": [None]}, {"from": "gpt"})
]


@pytest.mark.parametrize("row_format", list(FORMATS))
def test_any_row_is_read_or_has_a_reason(row_format):
    """An error of another type would stop the run at one bad row of a million."""
    extras = [
        {},
        *(
            {name: value}
            for name in ("tools", "chat_template_kwargs", "labels", "input", "system", "history")
            for value in SCALARS
        ),
    ]
    first, *others = FORMATS[row_format]
    num_read = 0
    for k, value in enumerate([*SCALARS, *CONVERSATIONS, [5, 6, 7]]):
        for other in (*SCALARS, CONVERSATIONS[k % len(CONVERSATIONS)][1:]):
            record = {first: value, **dict.fromkeys(others, other), **extras[k % len(extras)]}
            try:
                num_read += len(read_row(record, row_format).key) == 32
            except UnusableRowError as error:
                assert re.fullmatch("[a-z_]+", str(error))
    assert num_read > 0


def test_the_table_of_reasons_is_complete():
    assert {row_format for row_format, _, _ in DROPPED} == set(FORMATS)
    assert {reason for _, _, reason in DROPPED} == {
        "empty_prompt",
        "empty_completion",
        "prompt_not_text",
        "completion_not_text",
        "prompt_not_messages",
        "completion_not_messages",
        "last_message_not_assistant",
        "not_text",
        "tools_not_json",
        "tools_not_a_list",
        "chat_template_kwargs_not_a_dict",
        "unknown_role",
        "function_call_not_a_call",
        "system_not_text",
        "history_not_pairs",
        "input_ids_not_token_ids",
        "mask_not_as_long_as_input_ids",
    }
