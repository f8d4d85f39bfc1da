"""Rows of every supported format become the same record, or are dropped with a reason that is counted."""

from __future__ import annotations

import datetime
import itertools
import json
import logging
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

from nuggets_trainer.data.dataset import take_pool
from nuggets_trainer.data.formats import FORMATS, _log_format_choice, detect_format
from nuggets_trainer.data.pool import Pool, anchors_like
from nuggets_trainer.data.read_row import formatted_row, read_row
from nuggets_trainer.data.row import Row, UnusableRowError, joined_text

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
    assert detect_format(columns, "pool") == "prompt_completion"
    assert detect_format(["messages", "instruction", "output", "text"], "pool") == "messages"
    assert detect_format([*columns, "input_ids"], "pool") == next(iter(FORMATS)) == "tokenized"


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


def test_text_is_the_column_that_trl_trains_on():
    """`dataset_text_field` was ignored: another column was scored than trained on, or a known one refused."""
    rows = Dataset.from_list([{"text": "meta", "content": "Say it"}])
    assert Pool(rows)[0] == Row("", "meta")
    pool = Pool(rows, text_field="content")
    assert (pool.format, pool[0], pool.is_text_only) == ("text", Row("", "Say it"), True)
    assert Pool(rows.remove_columns("text"), text_field="content")[0] == pool[0]
    assert anchors_like(rows, pool)[0] == pool[0]
    assert anchors_like(rows.remove_columns("content"), pool)[0] == Row("", "meta")
    with pytest.raises(ValueError, match=r"no known format.*`content` \(the `dataset_text_field` of SFTConfig\)"):
        Pool(rows.select_columns("text"), text_field="content")
    with pytest.raises(ValueError, match="`dataset_text_field='content'`.*Leave `dataset_text_field` out"):
        Pool(Dataset.from_list(QUESTIONS), formatting_func=write, text_field="content")


def test_alpaca_columns_give_way_to_the_text_that_trl_trains_on(caplog):
    """The shape of tatsu-lab/alpaca: SFTTrainer trains on its `text`."""
    rows = Dataset.from_list([{"instruction": "a", "input": "", "output": "b", "text": "### a ### b"}])
    _log_format_choice.cache_clear()
    with caplog.at_level(logging.INFO, logger="nuggets_trainer"):
        assert Pool(rows)[0] == Pool(rows)[0] == Row("", "### a ### b")
    assert caplog.text.count("has the columns of several formats (text, alpaca). 'text' is read") == 1
    assert Pool(rows, text_field="output")[0] == Row("", "b")
    conversations = Pool(Dataset.from_list([{"messages": [message(USER), message(ASSISTANT)]}]))
    assert anchors_like(rows, conversations).format == "alpaca"  # nobody trains on anchors: the one with a prompt
    assert anchors_like(rows, Pool(rows)).format == "text"


def test_a_prompt_without_completion_is_refused_as_trl_fails_on_it():
    """The shape of ultrachat_200k: `prompt`, `prompt_id`, `messages`. The error was a bare KeyError."""
    rows = Dataset.from_list([{"prompt": "a", "messages": [message(USER), message(ASSISTANT)]}])
    with pytest.raises(ValueError, match=r"reads a row with `prompt` as prompt and completion.*remove_columns"):
        Pool(rows)
    assert Pool(rows.remove_columns("prompt")).format == "messages"
    assert anchors_like(rows, Pool(rows.remove_columns("prompt"))).format == "messages"  # TRL does not see anchors


def test_eos_that_trl_wrote_is_not_read():
    """A trainer that tokenized its own rows keeps them with EOS: other keys than those of the user's anchors."""
    for row, kept in (
        ({"prompt": "a ", "completion": "b</s>"}, Row("a ", "b")),
        ({"text": "a b</s>"}, Row("", "a b")),
        ({"text": "a</s> b"}, Row("", "a</s> b")),
    ):
        rows = Dataset.from_list([row])
        pool = Pool(rows, eos_token="</s>")
        assert pool[0] == kept == anchors_like(rows, pool)[0]
        assert Pool(rows)[0] != kept or "b</s>" not in str(row)
    turns = Pool(Dataset.from_list([{"messages": [message(USER), message(ASSISTANT, "b</s>")]}]), eos_token="</s>")
    assert turns[0].completion == [message(ASSISTANT, "b</s>")]
    assert Pool(Dataset.from_list([{"text": "a"}, {"text": "</s>"}]), eos_token="</s>").read_keys()[1] == {
        1: "empty_completion"
    }


def test_a_developer_message_is_a_system_message():
    turns = [message("developer"), message(ASSISTANT)]
    assert reason_of({"messages": turns}, "messages") == "empty_prompt"


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
    row = read_row({"input_ids": [5, 6, 7, 8], **masks}, "tokenized", completion_only=True)
    assert row == Row("", "", tokens=((5, 6, 7, 8), scored))


@pytest.mark.parametrize("kind", ["torch", "numpy", "pandas"])
def test_rows_are_read_alike_whatever_tensors_a_dataset_is_set_to_give(kind):
    rows = Dataset.from_list([{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}])
    pool = Pool(rows.with_format(kind))
    assert (pool.format, pool.is_conversational, pool.is_text_only) == ("tokenized", False, False)
    assert pool[0] == Pool(rows)[0] == Row("", "", tokens=((5, 6, 7), (1, 2)))


def test_a_completion_mask_counts_where_trl_applies_it():
    """It was always applied; TRL does so with `completion_only_loss`, by default where there are both columns."""
    rows = Dataset.from_list([{"input_ids": [5, 6, 7, 8], "completion_mask": [0, 0, 1, 1]}])
    both = rows.add_column("prompt", ["a"]).add_column("completion", ["b"])
    every, masked = (1, 2, 3), (2, 3)
    for dataset, given, scored in (
        (rows, None, every),
        (rows, False, every),
        (rows, True, masked),
        (both, None, masked),
        (both, False, every),
    ):
        pool = Pool(dataset, completion_only_loss=given)
        assert pool[0].tokens == ((5, 6, 7, 8), scored)
        assert anchors_like(rows, pool)[0] == pool[0]  # anchors as the pool


@pytest.mark.parametrize("padding", [(2, 0), (0, 3), (1, 2)])
def test_padding_is_no_part_of_tokenized_rows(padding):
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


def test_token_ids_win_over_raw_columns_as_in_trl():
    """TRL takes rows with `input_ids` for prepared; what else they have was scored instead."""
    rows = Dataset.from_list([{"input_ids": [5, 6], "messages": [message(USER), message(ASSISTANT)]}])
    assert Pool(rows).format == "tokenized"
    raw = Pool(rows, row_format="messages")
    assert raw[0] == Pool(rows.remove_columns("input_ids"))[0]
    assert anchors_like(rows, raw).format == "messages"  # anchors as the pool
    assert anchors_like(rows, Pool(Dataset.from_list([{"prompt": "a", "completion": "b"}]))).format == "messages"


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
    assert rows[0].text_key != rows[1].text_key  # no pair of a row with itself


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
    assert row.text_key == Row("Say it", "b").text_key


def test_a_part_that_is_no_text_is_refused_in_the_first_row_and_dropped_later():
    text = [{"type": "text", "text": "a"}]
    good = {"messages": [message(USER, text), message(ASSISTANT, text)]}
    image = {"messages": [message(USER, [*text, {"type": "image", "text": None}]), message(ASSISTANT, text)]}
    with pytest.raises(
        ValueError, match="`train_dataset`: row 0 holds an image, audio or video, but selection works on text alone"
    ):
        Pool(Dataset.from_list([image, good]))
    assert Pool(Dataset.from_list([good, image])).read_keys()[1] == {1: "not_text"}


def test_conversations_that_trl_does_not_read_are_refused_with_the_way_out():
    rows = Dataset.from_list([{"conversations": [message(USER, "a"), message(ASSISTANT, "b")]}])
    with pytest.raises(ValueError, match=r"lack `from` and `value`.*rename_column\('conversations', 'messages'\)"):
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
    with pytest.raises(ValueError, match=r"`anchors` has the columns \['q'\].*pool's columns are \['a', 'q'\]"):
        anchors_like(Dataset.from_list([{"q": "x"}]), pool)


@pytest.mark.parametrize(
    ("rows", "function", "field", "error", "message"),
    [
        (QUESTIONS, None, "a", ValueError, "`response_field='a'` needs a `formatting_func`"),
        (
            QUESTIONS,
            write,
            "b",
            ValueError,
            r"`response_field` must be a column of `train_dataset`, which has \['a', 'q'\], got 'b'",
        ),
        (QUESTIONS, lambda row: [write(row)], None, TypeError, "`formatting_func` must return one string.* got list"),
        (QUESTIONS, lambda row: None, "a", TypeError, "`formatting_func` must return one string.* got NoneType"),
        (QUESTIONS, lambda row: row["q"], "a", ValueError, "alike with and without its `response_field='a'`"),
        ([{"messages": "x", "q": ""}], write, None, ValueError, r"columns \['messages'\]: TRL trains on them"),
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
    assert rows[0].text_key == rows[1].text_key
    assert rows[0].text_key != Row("", "", tokens=((1, 2, 4), (2,))).text_key


def test_rows_that_say_the_same_are_the_same_text_whatever_their_columns():
    """A row of text alone was another one than its prompt and completion: a pair with itself was scored."""
    same = [
        Row("Say red?\n", "one"),
        Row("", "Say red?\none\n"),
        Row("Say red?", "one", separator="\n\n", alpaca=("Say red?", "")),
        Row([message(USER, "Say red?")], [message(ASSISTANT, "one")]),
    ]
    assert len({row.text_key for row in same}) == 1 and len({row.key for row in same}) == len(same)
    other = Row("", "Say red? two")
    assert other.text_key != same[0].text_key
    pool = Pool(Dataset.from_list([{"text": same[1].completion}, {"text": " "}]))
    assert pool.texts == {same[1].key: same[0].text_key}


def test_tool_calls_beside_text_are_part_of_what_is_said():
    rows = [
        Row([message(USER, "a")], [message(ASSISTANT, "Let me look.", tool_calls=[{"function": {"name": name}}])])
        for name in ("x", "y")
    ]
    assert len({row.text_key for row in [*rows, Row("a", "Let me look.")]}) == 3


def test_the_order_of_keys_in_tools_and_calls_is_content():
    """A chat template writes JSON in its own order: rows of one key were rendered to different ids."""
    one, other = {"a": 1, "b": 2}, {"b": 2, "a": 1}
    turns = [message(USER, "a")], [message(ASSISTANT, "b")]
    assert one == other
    for name in ("tools", "template_kwargs"):
        assert Row(*turns, **{name: [one]}).key != Row(*turns, **{name: [other]}).key
    calls = [Row(turns[0], [message(ASSISTANT, "b", tool_calls=[call])]) for call in (one, other)]
    assert calls[0].key != calls[1].key and calls[0].text_key == calls[1].text_key


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
        TypeError,
        match=r"`train_dataset` must be one split, got DatasetDict with the splits \['dev', 'train'\].*dataset\['",
    ):
        Pool(splits)


def test_the_split_proposed_for_a_dataset_dict_is_the_training_split():
    splits = DatasetDict(train=Dataset.from_list([{"prompt": "a"}]), dev=Dataset.from_list([{"prompt": "a"}]))
    with pytest.raises(TypeError, match=r"Pass e\.g\. `dataset\['train'\]`"):
        Pool(splits)


def test_an_empty_dataset_dict_is_refused_as_a_dataset_dict():
    with pytest.raises(TypeError, match="`train_dataset` must be one split, got DatasetDict"):
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
    with pytest.raises(TypeError, match="`train_dataset` must be one split, got IterableDatasetDict"):
        take_pool(IterableDatasetDict(train=stream), 3)


@pytest.mark.parametrize(
    ("value", "kind"), [([{"prompt": "a"}], "list"), (None, "NoneType"), ({"prompt": ["a"]}, "dict")]
)
def test_anything_but_a_dataset_is_refused_with_its_type(value, kind):
    with pytest.raises(TypeError, match=rf"`train_dataset` must be a datasets\.Dataset, got {kind}\."):
        Pool(value)


def test_an_empty_dataset_is_refused():
    with pytest.raises(ValueError, match=r"`train_dataset` is empty\. Expected at least one row"):
        Pool(Dataset.from_dict({"prompt": [], "completion": []}))


def test_unknown_columns_are_shown_beside_the_expected_ones():
    expected = (
        r"\['question', 'response'\].*no known format.*`prompt` \+ `completion`.*`messages`.*`instruction` \+ `output`"
    )
    with pytest.raises(ValueError, match=rf"`train_dataset` has the columns {expected}.*rename_columns"):
        Pool(Dataset.from_list([{"response": "b", "question": "a"}]))
    with pytest.raises(ValueError, match=r"columns \['instruction'\]"):  # half of a format is none
        Pool(Dataset.from_list([{"instruction": "a"}]))


def test_anchors_with_unknown_columns_are_shown_beside_those_of_the_pool():
    pool = Pool(Dataset.from_list([{"instruction": "a", "output": "b"}]))
    with pytest.raises(
        ValueError,
        match=r"`anchors` has the columns \['q'\].*Expected.*pool's columns are \['instruction', 'output'\]",
    ):
        anchors_like(Dataset.from_list([{"q": "a"}]), pool)


def test_anchors_may_have_another_known_format_than_the_pool():
    pool = Pool(Dataset.from_list([{"instruction": "a", "output": "b"}]))
    assert anchors_like(Dataset.from_list([{"prompt": "a", "completion": "b"}]), pool).format == "prompt_completion"


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_every_nth_row_of_the_longest_first_is_the_nth_part_of_the_text(world):
    rows = [{"prompt": "a" * (1 + i * i % 97), "completion": "b" * (1 + i * 31 % 53)} for i in range(60)]
    pool = Pool(Dataset.from_list([*rows, {"prompt": "", "completion": "nothing was asked"}]))
    order = pool.longest_first(range(60))
    assert sorted(order) == list(range(60)) and order == pool.longest_first(range(59, -1, -1))
    sizes = [len(row["prompt"]) + len(row["completion"]) for row in rows]
    shares = [sum(sizes[i] for i in order[rank::world]) for rank in range(world)]
    assert max(shares) - min(shares) <= max(sizes)
