"""Rows with Alpaca columns are told from all others, and turned into what TRL takes."""

from __future__ import annotations

import pytest
from datasets import Dataset

from nuggets_trainer.data.formats import FORMATS, detect_format
from nuggets_trainer.prompts.chat import ChatTemplate
from nuggets_trainer.prompts.nuggets import NuggetsTemplate
from nuggets_trainer.prompts.templates import resolve_alpaca_template
from nuggets_trainer.prompts.trl_columns import alpaca_to_trl, is_alpaca, train_columns
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
    ("name", "chat_template", "expected"),
    [("auto", "x", "chat"), ("auto", None, "plain"), ("nuggets", "x", "nuggets")],
)
def test_auto_is_chat_if_there_is_a_chat_template(name, chat_template, expected):
    assert resolve_alpaca_template(name, chat_template) == expected


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
