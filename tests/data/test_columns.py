"""Rows under other names are the rows that they would be under standard names."""

from __future__ import annotations

import json
import logging

import pytest
from datasets import Dataset

from nuggets_trainer.config.column_mapping import read_column_mapping
from nuggets_trainer.data.columns import map_columns, map_each
from nuggets_trainer.data.pool import Pool


def mapped(rows: list[dict], columns, **options) -> Dataset:
    return map_columns(Dataset.from_list(rows), read_column_mapping(columns), "pool", **options)


CASES = {
    "text": ({"body": "Say it."}, "text=body", {"text": "Say it."}),
    "prompt and completion": (
        {"question": "One? ", "answer": "1"},
        "prompt=question completion=answer",
        {"prompt": "One? ", "completion": "1"},
    ),
    "the other column is standard": (
        {"prompt": "One? ", "answer": "1"},
        "completion=answer",
        {"prompt": "One? ", "completion": "1"},
    ),
    "standard names are taken": (
        {"question": "One? ", "answer": "1", "prompt": "no", "messages": "no", "input_ids": [1]},
        "prompt=question completion=answer",
        {"prompt": "One? ", "completion": "1"},
    ),
    "alpaca": (
        {"q": "Add.", "context": "1 + 1", "a": "2", "sys": "Be brief."},
        "instruction=q input=context output=a system=sys",
        {"instruction": "Add.", "input": "1 + 1", "output": "2", "system": "Be brief."},
    ),
    "system and text": (
        {"question": "One?", "answer": "1", "sys": " Be brief. "},
        "prompt=question completion=answer system=sys",
        {
            "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One?"}],
            "completion": [{"role": "assistant", "content": "1"}],
        },
    ),
    "no system message": (
        {"question": "One?", "answer": "1", "sys": ""},
        "prompt=question completion=answer system=sys",
        {"prompt": [{"role": "user", "content": "One?"}], "completion": [{"role": "assistant", "content": "1"}]},
    ),
    "messages": (
        {"turns": [{"who": "client", "says": "Hi?", "n": 1}, {"who": "agent", "says": "Yes.", "n": 2}], "s": "Help."},
        "messages=turns role=who content=says role.user=customer,client role.assistant=agent system=s",
        {
            "messages": [
                {"role": "system", "content": "Help."},
                {"role": "user", "content": "Hi?", "n": 1},
                {"role": "assistant", "content": "Yes.", "n": 2},
            ]
        },
    ),
    "sharegpt": (
        {"turns": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Yes."}]},
        "messages=turns",
        {"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}]},
    ),
    "json text": (
        {"turns": '[{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}]'},
        "messages=turns",
        {"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}]},
    ),
    "parts": (
        {
            "t": [
                {"who": "user", "content": [{"type": "text", "text": "Hi?"}]},
                {"who": "assistant", "content": [{"type": "text", "text": "Yes."}]},
            ],
            "s": "Help.",
        },
        "messages=t role=who system=s",
        {
            "messages": [
                {"role": role, "content": [{"type": "text", "text": text}]}
                for role, text in (("system", "Help."), ("user", "Hi?"), ("assistant", "Yes."))
            ]
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_rows_are_those_that_have_standard_names(case):
    row, columns, standard = CASES[case]
    found = mapped([{**row, "id": 7}], columns)
    assert "id" in found.column_names
    pool, expected = Pool(found), Pool(Dataset.from_list([standard]))
    assert pool[0] == expected[0] and pool.format == expected.format
    assert pool.read_keys() == expected.read_keys()  # so that stored scores are found
    assert pool.completion_only == expected.completion_only
    again = map_columns(found, read_column_mapping(columns), "pool")
    assert Pool(again).read_keys() == pool.read_keys()


def test_rows_that_hold_something_else_are_dropped_with_a_reason():
    rows = [{"turns": '[{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}]'}]
    pool = Pool(mapped([*rows, {"turns": "no JSON"}, {"turns": '["text"]'}, {"turns": None}], "messages=turns"))
    assert pool.read_keys()[1] == dict.fromkeys((1, 2, 3), "prompt_not_messages")
    pool = Pool(
        mapped(
            [{"q": "One?", "a": None, "s": "Be."}, {"q": "One?", "a": "1", "s": None}],
            "prompt=q completion=a system=s",
        )
    )
    assert pool.read_keys()[1] == {0: "empty_completion"}


def test_columns_that_are_not_there_are_named():
    rows = [{"question": "One?", "answr": "1"}]
    with pytest.raises(ValueError, match="completion=answer, but `pool` has no such column.*'answr', 'question'"):
        mapped(rows, "prompt=question completion=answer")
    with pytest.raises(ValueError, match="does not say which column of `pool` is `completion`.*completion=answr"):
        mapped(rows, "prompt=question")


def test_a_misspelt_column_is_not_replaced_by_one_with_the_standard_name():
    """`output=anwser` was read as the column `output`, in silence, because rows may be mapped twice."""
    rows = [{"question": "One?", "answer": "1", "output": "log line"}]
    with pytest.raises(ValueError, match="output=anwser, but `pool` has no such column"):
        mapped(rows, "instruction=question output=anwser")
    once = mapped(rows, "instruction=question output=answer").to_list()
    assert once == [{"instruction": "One?", "output": "1"}]
    assert mapped(once, "instruction=question output=answer").to_list() == once


def test_anchors_and_evaluation_rows_may_have_standard_names():
    mapping = read_column_mapping("prompt=question completion=answer")
    standard = Dataset.from_list([{"prompt": "One? ", "completion": "1"}])
    own = Dataset.from_list([{"question": "One? ", "answer": "1"}])
    other = Dataset.from_list([{"text": "One? 1"}])
    sets = map_each({"own": own, "standard": standard, "other": other}, mapping, "eval_dataset")
    assert sets["standard"] is standard and sets["other"] is other
    assert sets["own"].column_names == ["prompt", "completion"]
    assert map_each(None, mapping, "eval_dataset") is None and map_each(own, None, "eval_dataset") is own


def test_prompts_that_touch_their_completion_are_said(caplog):
    with caplog.at_level(logging.WARNING, logger="nuggets_trainer"):
        mapped([{"q": "One and two?", "a": "3"}], "prompt=q completion=a")
        assert "'One and two?' and '3' without a space" in caplog.text
        assert "--columns instruction=q output=a" in caplog.text
        caplog.clear()
        mapped([{"q": "One and two?\n", "a": "3"}], "prompt=q completion=a")
        mapped([{"q": "One?", "a": "3"}], "instruction=q output=a")
    assert caplog.text == ""


USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "a", "answer": "b"}, "instruction=question output=answer"),
        ({"Query": "a", "Response": "b", "id": 1}, "instruction=Query output=Response"),
        ({"instruction": "a", "input": "", "response": "b"}, "output=response"),
        ({"input": "a", "target": "b"}, "instruction=input output=target"),
        ({"dialog": [{"speaker": "a", "utterance": "b"}]}, "messages=dialog role=speaker content=utterance"),
        ({"chat": [{"from": "human", "value": "b"}]}, "messages=chat"),
        (
            {"prompt": [{"role": "user", "content": "a"}], "chosen": [{"role": "assistant", "content": "b"}]},
            "completion=chosen",
        ),
        ({"body": "a"}, "text=body"),
        ({"inputs": "a", "targets": "b"}, "instruction=inputs output=targets"),
        ({"chosen": [USER, ANSWER], "rejected": [USER, ANSWER]}, "messages=chosen"),
        ({"prompt": "a", "chosen": [USER, ANSWER], "rejected": [USER, ANSWER]}, "messages=chosen"),
        ({"Instruction": "a", "Input": "", "Output": "b"}, "instruction=Instruction output=Output input=Input"),
        ({"User Question": "a", "Model Answer": "b"}, "'instruction=User Question' 'output=Model Answer'"),
        ({"Prompt ": "a", " Completion": "b"}, "'instruction=Prompt ' 'output= Completion'"),
        ({"question": "a", "answer": "b", "model_answer": "c"}, "instruction=question output=answer"),
    ],
)  # fmt: skip
def test_the_error_guesses_the_mapping(row, words):
    with pytest.raises(ValueError, match=f"Is it `--columns {words}`"):
        Pool(Dataset.from_list([row]))
    mapping = read_column_mapping(words)
    mapped_pool = Pool(map_columns(Dataset.from_list([row]), mapping, "pool"))
    assert mapped_pool.format == mapping.format


def test_no_guess_is_made_where_two_columns_may_be_meant():
    for columns in (["question", "answer", "response"], ["a", "b"], ["title", "body"]):
        example = f"`--columns prompt={columns[0]} completion={columns[1]}` "
        with pytest.raises(ValueError, match=f"Say which column is which, such as {example}"):
            Pool(Dataset.from_dict({column: ["x"] for column in columns}))


def test_lists_of_texts_are_told_with_a_way_out():
    """The error proposed to map the column, and then every row was dropped."""
    for column in ("answers", "answer"):
        rows = Dataset.from_list([{"question": "a", column: ["b", "c"], "tags": ["d"]}])
        with pytest.raises(ValueError, match=rf"'{column}' holds lists of texts.*`jq -c '\.\[\"{column}\"\] \|= "):
            Pool(rows)


def test_names_with_spaces_are_quoted_in_the_error():
    with pytest.raises(ValueError, match="`--columns 'prompt=the title' completion=body`"):
        Pool(Dataset.from_list([{"the title": "a", "body": "b"}]))


def test_conversations_with_standard_keys_and_null_turns():
    turns = [[USER, ANSWER], [USER, None], None, []]
    rows = Dataset.from_list([{"conversations": own} for own in turns])
    with pytest.raises(ValueError, match=r"Read it as messages: `--columns messages=conversations`"):
        Pool(rows)
    pool = Pool(rows, columns="messages=conversations")
    assert pool[0].completion == [ANSWER]
    assert pool.unreadable == {1: "prompt_not_messages", 2: "prompt_not_messages", 3: "empty_prompt"}


def test_rows_by_their_ids_are_told_with_a_way_out():
    row = {"instruction": "a", "output": "b"}
    with pytest.raises(ValueError, match=r"Is each column a row\?.*`jq -c '\.\[\]' FILE"):
        Pool(Dataset.from_list([{"1": row, "2": row, "3": row}]))


def test_a_pool_takes_columns_of_other_names():
    rows = Dataset.from_list([{"question": "One?", "answer": "1"}])
    own = Pool(rows, columns="instruction=question output=answer")
    assert own.read_keys() == Pool(Dataset.from_list([{"instruction": "One?", "output": "1"}])).read_keys()
    with pytest.raises(ValueError, match="columns instruction=question"):
        Pool(rows)


MESSAGES = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "1"}]
IMPLIED = {
    "whole numbers": ({"instruction": "6 x 7?", "output": 42}, {"instruction": "6 x 7?", "output": "42"}),
    "negative ones in text": ({"text": -7}, {"text": "-7"}),
    "messages as JSON text": ({"messages": json.dumps(MESSAGES)}, {"messages": MESSAGES}),
    "ShareGPT as JSON text": (
        {"conversations": json.dumps([{"from": "human", "value": "One?"}]), "system": "Be brief."},
        {"messages": [{"role": "system", "content": "Be brief."}, {"from": "human", "value": "One?"}]},
    ),
    "a text behind messages": (
        {"prompt": MESSAGES[:1], "completion": "1"},
        {"prompt": MESSAGES[:1], "completion": MESSAGES[1:]},
    ),
    "a text before messages": (
        {"prompt": "One?", "completion": MESSAGES[1:]},
        {"prompt": MESSAGES[:1], "completion": MESSAGES[1:]},
    ),
}


@pytest.mark.parametrize("case", IMPLIED)
def test_values_that_can_only_mean_one_thing_are_changed(case):
    """All such rows were dropped, and TRL fails on them. Evaluation rows are changed too."""
    row, standard = IMPLIED[case]
    dataset = Dataset.from_list([row])
    changed = Pool(dataset).dataset
    assert {name: changed[0][name] for name in standard} == standard
    assert map_each({"a": dataset}, None, "eval_dataset")["a"][0] == changed[0]
    assert map_columns(changed, None, "pool") is changed  # changed once


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "6 x 7?", "output": 42.0},
        {"instruction": "Right?", "output": True},
        {"messages": "no JSON"},
        {"messages": json.dumps({"role": "user"})},
    ],
)
def test_other_values_are_dropped_with_a_reason(row):
    """42 may have become 42.0 on its way here, so that a float is not the text of its answer."""
    assert len(Pool(Dataset.from_list([row])).read_keys()[1]) == 1


def test_a_list_of_rows_is_not_taken_for_messages():
    with pytest.raises(ValueError, match="Do the rows stand inside of `data`") as error:
        Pool(Dataset.from_list([{"version": 1, "data": [{"instruction": "a", "output": "b"}]}]))
    assert "jq -c '.data[]'" in str(error.value) and "messages=data" not in str(error.value)
