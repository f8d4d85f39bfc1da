"""Rows of every supported format become the same record, or are dropped with a reason that is counted."""

from __future__ import annotations

import datetime
import itertools
import json
import re
from collections import Counter

import pytest
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    IterableDatasetDict,
    Value,
)
from trl.data_utils import maybe_convert_to_chatml

from nuggets_trainer.pool import FORMATS, Pool, anchors_like, detect_format, same_text, take_pool
from nuggets_trainer.rows import Row, UnusableRowError, formatted_row, joined_text, read_row

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"


def message(role: str, content: object = "text", **more: object) -> dict[str, object]:
    return {"role": role, "content": content, **more}


def spoken(role: str, text: str) -> dict[str, str]:
    return {"from": role, "value": text}


def reason_of(record: dict[str, object], row_format: str) -> str | None:
    try:
        read_row(record, row_format)
    except UnusableRowError as error:
        return str(error)
    return None


# ---------------------------------------------------------------- formats


def test_alpaca_fields_are_stripped_and_the_input_follows_a_blank_line():
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


def test_text_in_prompt_and_completion_is_taken_as_it_is():
    pool = Pool(Dataset.from_list([{"prompt": " Say it\n", "completion": "  one "}]))
    assert (pool.format, pool.is_conversational) == ("prompt_completion", False)
    assert pool[0] == Row(" Say it\n", "  one ", separator="", alpaca=None)


def test_messages_in_prompt_and_completion_are_taken_as_they_are():
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


def test_null_keys_that_arrow_adds_to_messages_are_dropped():
    rows = [
        {"messages": [message(USER, "a"), message(ASSISTANT, "b", reasoning_content="hm")]},
        {"messages": [message(USER, "c", name="eve"), message(ASSISTANT, "d")]},
    ]
    pool = Pool(Dataset.from_list(rows))
    assert set(pool.dataset[0]["messages"][0]) > {"role", "content"}  # Arrow did add keys
    assert pool[0] == Row(rows[0]["messages"][:1], rows[0]["messages"][1:])
    assert pool[1] == Row(rows[1]["messages"][:1], rows[1]["messages"][1:])


def test_columns_of_two_formats_are_read_as_the_first_of_the_table():
    columns = ["messages", "prompt", "instruction", "completion", "output"]
    assert detect_format(columns, "pool") == next(iter(FORMATS)) == "prompt_completion"
    assert detect_format(["messages", "instruction", "output"], "pool") == "messages"


def test_columns_that_selection_does_not_know_are_left_alone():
    pool = Pool(Dataset.from_list([{"instruction": "a", "output": "b", "corruption": "none"}]))
    assert pool[0] == Row("a", "b", separator="\n\n", alpaca=("a", ""))
    assert pool.dataset.column_names == ["instruction", "output", "corruption"]


def test_an_unusable_first_row_does_not_hide_that_the_others_are_messages():
    """Else `auto` scores as plain text what TRL, which never sees that row, trains on as a conversation."""
    good = {"prompt": [message(USER)], "completion": [message(ASSISTANT)]}
    pool = Pool(Dataset.from_list([{"prompt": None, "completion": [message(ASSISTANT)]}, good]))
    assert list(pool.read_keys()[1]) == [0]
    assert pool[1].is_conversational
    assert pool.is_conversational


def test_sharegpt_keys_are_renamed_and_roles_are_kept():
    turns = [spoken("system", "s"), spoken("human", "a"), spoken("gpt", "b")]
    pool = Pool(Dataset.from_list([{"conversations": turns}]))
    assert (pool.format, pool.is_conversational) == ("sharegpt", True)
    assert pool[0] == Row([message(SYSTEM, "s"), message("human", "a")], [message("gpt", "b")])
    converted = maybe_convert_to_chatml({"conversations": [dict(turn) for turn in turns]})  # TRL's own
    assert [*pool[0].prompt, *pool[0].completion] == converted["messages"]
    record = {"prompt": [spoken(USER, "a")], "completion": [spoken(ASSISTANT, "b")]}
    assert read_row(record, "prompt_completion") == Row([message(USER, "a")], [message(ASSISTANT, "b")])


def test_text_alone_is_all_completion():
    pool = Pool(Dataset.from_list([{"text": " Say it\n"}]))
    assert (pool.format, pool.is_conversational, pool.is_text_only) == ("text", False, True)
    assert pool[0] == Row("", " Say it\n")


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
def test_the_scored_tokens_of_tokenized_rows_are_those_with_loss_but_never_the_first(masks, scored):
    row = read_row({"input_ids": [5, 6, 7, 8], **masks}, "tokenized")
    assert row == Row("", "", tokens=((5, 6, 7, 8), scored))


@pytest.mark.parametrize("kind", ["torch", "numpy", "pandas"])
def test_rows_are_read_alike_whatever_tensors_a_dataset_is_set_to_give(kind):
    rows = Dataset.from_list([{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}])
    pool = Pool(rows.with_format(kind))
    assert (pool.format, pool.is_conversational, pool.is_text_only) == ("tokenized", False, False)
    assert pool[0] == Pool(rows)[0] == Row("", "", tokens=((5, 6, 7), (1, 2)))


def test_raw_columns_win_over_token_ids():
    assert detect_format(["input_ids", "labels", "messages"], "pool") == "messages"
    assert list(FORMATS)[-1] == "tokenized"


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def test_tools_and_options_of_the_chat_template_belong_to_conversations():
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
    assert same_text(rows[0].key) != same_text(rows[1].key)  # no pair of a row with itself


def test_nulls_inside_of_tools_and_calls_stay_as_trl_renders_them():
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


def test_parts_of_text_are_kept_and_read_as_their_text():
    parts = [{"type": "text", "text": "Say "}, {"type": "text", "text": "it"}]
    row = read_row({"messages": [message(USER, parts), message(ASSISTANT, "b")]}, "messages")
    assert row.prompt == [message(USER, parts)]
    assert joined_text(row.prompt) == "Say it"
    assert same_text(row.key) == same_text(Row("Say it", "b").key)


def test_a_part_that_is_no_text_is_refused_in_the_first_row_and_dropped_later():
    text = [{"type": "text", "text": "a"}]
    good = {"messages": [message(USER, text), message(ASSISTANT, text)]}
    image = {"messages": [message(USER, [*text, {"type": "image", "text": None}]), message(ASSISTANT, text)]}
    with pytest.raises(ValueError, match="`train_dataset`: row 0 holds a part .* selection works on text alone"):
        Pool(Dataset.from_list([image, good]))
    assert Pool(Dataset.from_list([good, image])).read_keys()[1] == {1: "not_text"}


def test_conversations_that_trl_does_not_read_are_refused_with_the_way_out():
    rows = Dataset.from_list([{"conversations": [message(USER, "a"), message(ASSISTANT, "b")]}])
    with pytest.raises(ValueError, match=r"without `from` and `value`.*rename_column\('conversations', 'messages'\)"):
        Pool(rows)
    assert len(Pool(rows.rename_column("conversations", "messages")).read_keys()[1]) == 0


@pytest.mark.parametrize("column", ["seq_lengths", "position_ids"])
def test_packed_rows_are_refused_with_the_way_out(column):
    with pytest.raises(ValueError, match=rf"`train_dataset` is packed .*'{column}'.*Select before packing"):
        Pool(Dataset.from_list([{"input_ids": [1, 2], column: [1, 1]}]))


# ---------------------------------------------------------------- formatting_func

QUESTIONS = [{"q": "red?", "a": "one"}, {"q": "blue?", "a": ""}, {"q": "green?", "a": "two"}]


def write(row: dict[str, str]) -> str:
    return f"Q: {row['q']}\nA: {row['a']}\n"


def test_what_a_function_writes_is_the_completion_without_a_response_field():
    pool = Pool(Dataset.from_list(QUESTIONS), formatting_func=write)
    assert (pool.format, pool.is_conversational, pool.is_text_only) == ("formatting_func", False, True)
    assert pool[0] == Row("", "Q: red?\nA: one\n")


def test_the_response_field_splits_what_a_function_writes():
    pool = Pool(Dataset.from_list([*QUESTIONS, {"q": "day?", "a": None}]), "pool", write, "a")
    assert not pool.is_text_only
    assert pool[0] == Row("Q: red?\nA: ", "one\n")
    assert pool.read_keys()[1] == {1: "empty_completion", 3: "completion_not_text"}
    assert pool.dataset[0] == QUESTIONS[0]


def test_formatted_text_is_split_where_the_two_part():
    assert formatted_row("abc", "ab") == Row("ab", "c")
    assert formatted_row("abcd", "abd") == Row("ab", "cd")
    assert formatted_row("one", "") == Row("", "one")


def test_a_function_may_write_into_the_row_that_it_is_given():
    def write_in_place(row):
        row["q"] = row["q"].upper()
        return write(row)

    pool = Pool(Dataset.from_list(QUESTIONS), "pool", write_in_place, "a")
    assert pool[0] == Row("Q: RED?\nA: ", "one\n")


def test_anchors_with_the_pools_columns_are_written_by_its_function():
    pool = Pool(Dataset.from_list(QUESTIONS), "pool", write, "a")
    alike = anchors_like(Dataset.from_list([{"q": "x", "a": "y", "source": "z"}]), pool)
    assert alike[0] == Row("Q: x\nA: ", "y\n")
    other = anchors_like(Dataset.from_list([{"prompt": "x", "completion": "y"}]), pool)
    assert (other.format, other[0]) == ("prompt_completion", Row("x", "y"))
    with pytest.raises(ValueError, match=r"`anchors` has columns \['q'\].*pool's columns are \['a', 'q'\]"):
        anchors_like(Dataset.from_list([{"q": "x"}]), pool)


@pytest.mark.parametrize(
    ("rows", "function", "field", "error", "message"),
    [
        (QUESTIONS, None, "a", ValueError, "`response_field='a'` is given without `formatting_func`"),
        (QUESTIONS, write, "b", ValueError, r"`response_field='b'` is no column.*columns are \['a', 'q'\]"),
        (QUESTIONS, lambda row: [write(row)], None, TypeError, "`formatting_func` gave list .* expected one string"),
        (QUESTIONS, lambda row: None, "a", TypeError, "`formatting_func` gave NoneType"),
        (QUESTIONS, lambda row: row["q"], "a", ValueError, "alike with and without its `response_field='a'`"),
        ([{"messages": "x", "q": ""}], write, None, ValueError, r"columns \['messages'\], for which TRL does not use"),
        ([{"input_ids": [1], "prompt": ""}], write, None, ValueError, r"columns \['input_ids', 'prompt'\]"),
    ],
)
def test_a_function_that_does_not_fit_is_refused_before_any_work(rows, function, field, error, message):
    with pytest.raises(error, match=message):
        Pool(Dataset.from_list(rows), "train_dataset", function, field)


def test_a_row_for_which_the_function_gives_no_string_is_dropped():
    rows = Dataset.from_list(QUESTIONS)
    pool = Pool(rows, formatting_func=lambda row: None if row["a"] == "two" else write(row))
    assert pool.read_keys()[1] == {2: "completion_not_text"}


# ---------------------------------------------------------------- reasons

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
    ("text", {"text": None}, "completion_not_text"),
    ("text", {"text": " \n"}, "empty_completion"),
    ("tokenized", {"input_ids": None}, "input_ids_not_token_ids"),
    ("tokenized", {"input_ids": ["1"]}, "input_ids_not_token_ids"),
    ("tokenized", {"input_ids": []}, "empty_completion"),
    ("tokenized", {"input_ids": [3]}, "empty_completion"),
    ("tokenized", {"input_ids": [3, 4], "labels": [3, -100]}, "empty_completion"),
    ("tokenized", {"input_ids": [3, 4], "labels": [4]}, "mask_not_as_long_as_input_ids"),
    ("tokenized", {"input_ids": [3, 4], "labels": 1}, "mask_not_as_long_as_input_ids"),
    ("tokenized", {"input_ids": [3, 4], "completion_mask": [0, 1, 1]}, "mask_not_as_long_as_input_ids"),
    (
        "tokenized",
        {"input_ids": [3, 4, 5], "completion_mask": [0, 1, 0], "assistant_masks": [0, 0, 1]},
        "empty_completion",
    ),
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
def test_whatever_a_row_holds_it_is_read_or_has_a_reason(row_format):
    """An error of another type would stop the run at one bad row of a million."""
    extras = [
        {},
        *({name: value} for name in ("tools", "chat_template_kwargs", "labels", "input") for value in SCALARS),
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


def test_the_table_of_reasons_covers_every_format_and_every_reason():
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
        "input_ids_not_token_ids",
        "mask_not_as_long_as_input_ids",
    }


def test_every_dropped_row_of_a_pool_is_counted_with_its_reason():
    rows = [
        {"instruction": "a", "input": "", "output": "b"},
        {"instruction": " ", "input": "", "output": "b"},
        {"instruction": "a", "input": "", "output": ""},
        {"instruction": "a", "input": "", "output": None},
        {"instruction": "c", "input": "", "output": " "},
    ]
    keys, dropped = Pool(Dataset.from_list(rows)).read_keys()
    assert dropped == {1: "empty_prompt", 2: "empty_completion", 3: "completion_not_text", 4: "empty_completion"}
    assert Counter(dropped.values())["empty_completion"] == 2
    assert [bool(key) for key in keys] == [True, False, False, False, False]


def test_reading_the_keys_twice_does_not_share_the_reasons():
    pool = Pool(Dataset.from_list([{"instruction": "a", "output": "b"}, {"instruction": "", "output": "b"}]))
    first = pool.read_keys()[1]
    first[0] = "too_long"
    assert pool.read_keys()[1] == {1: "empty_prompt"}


# ---------------------------------------------------------------- content hashes


def test_equal_rows_have_equal_keys_whatever_their_columns_are():
    alpaca = [
        {"instruction": "Say ", "input": "red", "output": "one", "source": "x"},
        {"instruction": "Say", "input": " red\n", "output": " one", "source": "y"},
    ]
    keys, _ = Pool(Dataset.from_list(alpaca)).read_keys()
    assert keys[0] == keys[1]
    turns = [{"content": "a", "role": USER}, {"content": "b", "role": ASSISTANT}]
    messages = read_row({"messages": turns}, "messages")
    reordered = [{"role": USER, "content": "a", "name": None}]
    parts = read_row({"prompt": reordered, "completion": [message(ASSISTANT, "b")]}, "prompt_completion")
    assert messages.key == parts.key


def test_different_rows_have_different_keys():
    rows = [
        Row("a", "b"),
        Row("a", "b", separator="\n\n"),
        Row("a", "c"),
        Row("ab", ""),
        Row("", "ab"),
        Row("a b", "b"),
        Row("a ", "b"),
        Row("A", "b"),
        Row("é", "b"),
        Row("e\u0301", "b"),
        Row('["a", "b"]', "b"),
        Row([message(USER, "a")], [message(ASSISTANT, "b")]),
        Row([message(SYSTEM, "a")], [message(ASSISTANT, "b")]),
        Row([message(USER, "a", name="x")], [message(ASSISTANT, "b")]),
        Row([message(USER, "a"), message(ASSISTANT, "b")], [message(ASSISTANT, "b")]),
        Row([message(USER, "a")], [message(ASSISTANT, "b")], tools=[]),
        Row([message(USER, "a")], [message(ASSISTANT, "b")], tools=[{"name": "x"}]),
        Row([message(USER, "a")], [message(ASSISTANT, "b")], template_kwargs={"name": "x"}),
        Row([message(USER, "a")], [message(ASSISTANT, "b")], template_kwargs={"name": "y"}),
        Row("", "", tokens=((1, 2, 3), (1, 2))),
        Row("", "", tokens=((1, 2, 3), (2,))),
        Row("", "", tokens=((1, 2, 4), (1, 2))),
        Row("a\ud800", "b"),
        Row("a\ud801", "b"),
    ]
    assert len({row.key for row in rows}) == len(rows)


def test_keys_of_rows_that_stores_on_disk_hold_stay_what_they_were():
    """Taken before rows had tools, options or token ids: another key would score every stored row again."""
    messages = Row([message(SYSTEM, "s"), message(USER, "a", name="x")], [message(ASSISTANT, "b")])
    alpaca = Row("Say\n\nred", "one", separator="\n\n", alpaca=("Say", "red"))
    keys = [row.key for row in (Row("a ", "é\ud800"), alpaca, messages)]
    assert keys == [
        "2e97da54a0b8afac83323ee8256a8b04",
        "e2cde51427995609051266115e03ad55",
        "19c2488b18d27a4aaade9abe8a9b22cd",
    ]


def test_equal_token_ids_have_the_same_text_whatever_is_scored():
    rows = [Row("", "", tokens=((1, 2, 3), scored)) for scored in ((1, 2), (2,))]
    assert same_text(rows[0].key) == same_text(rows[1].key)
    assert same_text(rows[0].key) != same_text(Row("", "", tokens=((1, 2, 4), (2,))).key)


def test_excluded_rows_are_unusable_and_keep_the_content_hash():
    pool = Pool(Dataset.from_list([{"text": text} for text in ("a", " ", "c")]))
    before = pool.content_hash
    pool.exclude({0: "cut", 1: "cut"})
    assert pool.read_keys()[1] == {0: "cut", 1: "empty_completion"}
    assert pool.content_hash == before


def test_the_content_hash_of_a_pool_depends_on_rows_and_order():
    rows = [{"instruction": str(i), "output": "b"} for i in range(4)]
    pools = [
        Pool(Dataset.from_list(part)) for part in (rows, rows[::-1], rows[:3], [*rows[:3], {**rows[3], "output": "c"}])
    ]
    assert len({pool.content_hash for pool in pools}) == 4
    assert Pool(Dataset.from_list([{**row, "source": "x"} for row in rows])).content_hash == pools[0].content_hash


def test_lone_surrogates_and_very_long_text_survive():
    long = "word " * 400_000
    assert read_row({"prompt": "a\ud83d", "completion": "\udc00"}, "prompt_completion").prompt == "a\ud83d"
    row = Pool(Dataset.from_list([{"prompt": long, "completion": "b"}]))[0]
    assert row.prompt == long
    assert len(row.key) == 32
    assert row.key != Row(long + " ", "b").key


def test_messages_with_values_that_are_no_json_have_a_key():
    """Conversations from logs carry a timestamp in each message, which Arrow gives back as `datetime`."""
    when = [datetime.datetime(2024, 1, day) for day in (1, 2)]
    rows = [{"messages": [message(USER, "a", at=t), message(ASSISTANT, "b", at=t)]} for t in when]
    keys, dropped = Pool(Dataset.from_list(rows)).read_keys()
    assert len(keys) == 2
    assert not dropped


# ---------------------------------------------------------------- what is no pool


def test_a_dataset_dict_is_refused_with_its_splits_and_the_way_out():
    splits = DatasetDict(train=Dataset.from_list([{"prompt": "a"}]), dev=Dataset.from_list([{"prompt": "a"}]))
    with pytest.raises(
        TypeError, match=r"`train_dataset` is a DatasetDict with splits \['dev', 'train'\].*dataset\['"
    ):
        Pool(splits)


def test_the_split_proposed_for_a_dataset_dict_is_the_training_split():
    splits = DatasetDict(train=Dataset.from_list([{"prompt": "a"}]), dev=Dataset.from_list([{"prompt": "a"}]))
    with pytest.raises(TypeError, match=r"pass e\.g\. `dataset\['train'\]`"):
        Pool(splits)


def test_an_empty_dataset_dict_is_refused_as_a_dataset_dict():
    with pytest.raises(TypeError, match="`train_dataset` is a DatasetDict"):
        Pool(DatasetDict())


def test_an_iterable_dataset_is_refused_with_the_reason_and_the_way_out():
    stream = IterableDataset.from_generator(lambda: iter([{"prompt": "a", "completion": "b"}]))
    with pytest.raises(TypeError, match=r"`anchors` is an IterableDataset.*number must be known.*Dataset\.from_list"):
        Pool(stream, "anchors")
    taken = Pool(Dataset.from_list(list(stream.take(1))))  # what the message says works
    assert len(taken) == 1


def test_a_pool_of_a_given_size_is_the_first_rows_also_of_a_stream():
    rows = [{"prompt": str(i), "completion": "b"} for i in range(5)]
    dataset = Dataset.from_list(rows)
    for source in (dataset, dataset.to_iterable_dataset(), IterableDataset.from_generator(lambda: iter(rows))):
        for size in (1, 3, 9):
            taken = take_pool(source, size)
            assert isinstance(taken, Dataset)
            assert list(taken) == rows[:size]
    assert take_pool(dataset, None) is dataset
    endless = IterableDataset.from_generator(lambda: ({"text": str(i)} for i in itertools.count()))
    assert len(take_pool(endless, 7)) == 7


def test_a_pool_keeps_the_features_of_its_stream():
    features = Features({"text": Value("string"), "kind": ClassLabel(names=["a", "b"])})
    dataset = Dataset.from_list([{"text": "x", "kind": 1}], features=features)
    assert take_pool(dataset.to_iterable_dataset(), 3).features == features


def test_a_stream_without_size_or_without_rows_is_refused_with_the_way_out():
    stream = IterableDataset.from_generator(lambda: iter([{"text": "a"}]))
    with pytest.raises(TypeError, match="`train_dataset` is an IterableDataset.*set `pool_size`"):
        take_pool(stream, None)
    for source in (Dataset.from_dict({"text": []}), IterableDataset.from_generator(lambda: iter([]))):
        with pytest.raises(ValueError, match="`train_dataset` is empty"):
            take_pool(source, 3)
    with pytest.raises(TypeError, match="`train_dataset` is a IterableDatasetDict with splits"):
        take_pool(IterableDatasetDict(train=stream), 3)


@pytest.mark.parametrize(
    ("value", "kind"), [([{"prompt": "a"}], "list"), (None, "NoneType"), ({"prompt": ["a"]}, "dict")]
)
def test_anything_but_a_dataset_is_refused_with_its_type(value, kind):
    with pytest.raises(TypeError, match=rf"`train_dataset` must be a datasets\.Dataset, got {kind}\."):
        Pool(value)


def test_an_empty_dataset_is_refused():
    with pytest.raises(ValueError, match="`train_dataset` is empty: expected at least one row"):
        Pool(Dataset.from_dict({"prompt": [], "completion": []}))


def test_unknown_columns_are_shown_beside_the_expected_ones():
    expected = (
        r"\['question', 'response'\].*no known format.*`prompt` \+ `completion`.*`messages`.*`instruction` \+ `output`"
    )
    with pytest.raises(ValueError, match=rf"`train_dataset` has columns {expected}.*rename_columns"):
        Pool(Dataset.from_list([{"response": "b", "question": "a"}]))
    with pytest.raises(ValueError, match=r"columns \['instruction'\]"):  # half of a format is none
        Pool(Dataset.from_list([{"instruction": "a"}]))


def test_anchors_with_unknown_columns_are_shown_beside_those_of_the_pool():
    pool = Pool(Dataset.from_list([{"instruction": "a", "output": "b"}]))
    with pytest.raises(
        ValueError, match=r"`anchors` has columns \['q'\].*Expected.*pool's columns are \['instruction', 'output'\]"
    ):
        anchors_like(Dataset.from_list([{"q": "a"}]), pool)


def test_anchors_may_have_another_known_format_than_the_pool():
    pool = Pool(Dataset.from_list([{"instruction": "a", "output": "b"}]))
    assert anchors_like(Dataset.from_list([{"prompt": "a", "completion": "b"}]), pool).format == "prompt_completion"
