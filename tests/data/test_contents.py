"""Repeated texts, refusals and boilerplate are counted, and good rows are not."""

from __future__ import annotations

import pytest
from datasets import Dataset

from nuggets_trainer.data.contents import KINDS, look_through, prompt_key
from nuggets_trainer.data.pool import Pool

LONG = "The sky is blue because short waves are scattered more."
GOOD = [
    (0, "Name a colour.", "Blue."),
    (1, "Write an apology to a customer.", "We are sorry that your parcel came late. We cannot undo it, but ..."),
    (
        2,
        "Why can't penguins fly?",
        "Their wings are short for their weight, and as far as we know they always were; we can't tell.",
    ),
]


def test_good_rows_are_not_counted():
    found = look_through(GOOD)
    assert found["num_rows"] == 3 and all(found[kind]["num_rows"] == 0 for kind in KINDS)


def test_each_kind_is_counted_with_examples():
    rows = [(10, "Name a  COLOUR.", "Red."), (11, "Say hi.", "I\u2019m sorry, but I can\u2019t do that.")]
    rows += [
        (12, "Plan a trip.", "As an AI language model, I suggest Rome. I hope this helps!"),
        (13, "Other.", LONG.upper()),
        (14, "Last.", "blue."),
    ]
    found = look_through([*GOOD[:1], (1, "First.", LONG), *rows])  # a short answer may be that of another row
    places = {kind: found[kind]["examples"] for kind in KINDS}
    assert places == {
        "repeated_prompts": [10],
        "repeated_completions": [13],
        "refusals": [11],
        "boilerplate": [12],
    }


def test_of_equal_rows_all_but_the_first_are_repeats():
    found = look_through([(i, "Again", str(i)) for i in range(9)] + [(9, "", "x"), (10, "", "y")])
    assert found["repeated_prompts"] == {"num_rows": 8, "examples": [1, 2, 3, 4, 5]}  # an empty prompt is no repeat


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


SYSTEM, ASK, SAID, NEXT = (
    turn("system", "Be brief."),
    turn("user", "One?"),
    turn("assistant", "1"),
    turn("user", "Two?"),
)
# Three rows each: the second has the prompt of the first and another answer, the third another prompt.
THREE = {
    "prompt_completion": [
        {"prompt": "Add 1  and 2:", "completion": "3"},
        {"prompt": "add 1 and 2:\n", "completion": "three"},
        {"prompt": "Add 1 and 3:", "completion": "3"},
    ],
    "conversations": [
        {"prompt": [ASK], "completion": [SAID]},
        {"prompt": [ASK], "completion": [turn("assistant", "one")]},
        {"prompt": [SYSTEM, ASK], "completion": [SAID]},
    ],
    "alpaca": [
        {"instruction": "Add.", "input": "1 and 2", "output": "3"},
        {"instruction": "Add. ", "input": "1 and 2", "output": "three"},
        {"instruction": "Add.", "input": "1 and 3", "output": "3"},
    ],
    "messages": [
        {"messages": [ASK, SAID, NEXT, turn("assistant", "2")]},
        {"messages": [ASK, SAID, NEXT, turn("assistant", "two")]},
        {"messages": [ASK, turn("assistant", "one"), NEXT, turn("assistant", "2")]},
    ],
    "tools": [
        {"messages": [ASK, SAID], "tools": "[]"},
        {"messages": [ASK, turn("assistant", "one")], "tools": "[]"},
        {"messages": [ASK, SAID], "tools": '[{"type": "function"}]'},
    ],
    "tokenized": [
        {"input_ids": [5, 6, 7, 8], "completion_mask": [0, 0, 1, 1]},
        {"input_ids": [5, 6, 9], "completion_mask": [0, 0, 1]},
        {"input_ids": [5, 4, 7, 8], "completion_mask": [0, 0, 1, 1]},
    ],
    "tokenized turns": [
        {"input_ids": [5, 1, 6, 7, 8], "labels": [-100, 1, -100, 7, 8]},
        {"input_ids": [5, 1, 6, 9, 9], "labels": [-100, 1, -100, 9, 9]},
        {"input_ids": [5, 2, 6, 7, 8], "labels": [-100, 2, -100, 7, 8]},
    ],
}


@pytest.mark.parametrize("name", THREE)
def test_the_prompt_is_all_before_the_last_answer(name):
    pool = Pool(Dataset.from_list(THREE[name]), completion_only_loss=True)
    one, same, other = (prompt_key(pool[i]) for i in range(3))
    assert one == same != other and one


def test_rows_of_one_text_have_no_prompt():
    for record in ({"text": "All of it."}, {"input_ids": [1, 5, 6], "labels": [1, 5, 6]}):
        assert prompt_key(Pool(Dataset.from_list([record]))[0]) == ""


def test_tool_calls_tell_prompts_apart():
    keys = set()
    for name in ("add", "subtract"):
        call = turn("assistant", "", tool_calls=[{"type": "function", "function": {"name": name, "arguments": {}}}])
        row = {"messages": [ASK, call, turn("tool", "3"), SAID]}
        keys.add(prompt_key(Pool(Dataset.from_list([row]))[0]))
    assert len(keys) == 2
