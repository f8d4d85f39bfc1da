"""Rows of every supported format become the same record, or are dropped with a reason that is counted."""

from __future__ import annotations

import datetime
from collections import Counter

import pytest
from datasets import Dataset, DatasetDict, IterableDataset

from nuggets_trainer.pool import FORMATS, Pool, Row, UnusableRowError, anchors_like, detect_format, read_row

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"


def message(role: str, content: object = "text", **more: object) -> dict[str, object]:
    return {"role": role, "content": content, **more}


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
    (
        "messages",
        {"messages": [message(USER, [{"type": "text", "text": "a"}]), message(ASSISTANT)]},
        "prompt_not_text",
    ),
]


@pytest.mark.parametrize(("row_format", "record", "reason"), DROPPED)
def test_an_unusable_row_has_a_named_reason(row_format, record, reason):
    assert reason_of(record, row_format) == reason


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
        Row("a\ud800", "b"),
        Row("a\ud801", "b"),
    ]
    assert len({row.key for row in rows}) == len(rows)


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
