"""Rows with Alpaca columns are told from all others, and turned into what TRL takes."""

from __future__ import annotations

import pytest
from datasets import Dataset

from nuggets_trainer.data.formats import FORMATS, detect_format
from nuggets_trainer.prompts.templates import resolve_alpaca_template
from nuggets_trainer.prompts.trl_columns import alpaca_to_trl, is_alpaca

ROW = {"instruction": "Say", "input": "red", "output": "one", "source": "x"}


@pytest.mark.parametrize("row_format", list(FORMATS))
def test_alpaca_columns_beside_those_of_another_format_are_read_as_the_pool_reads_them(row_format):
    columns = [*FORMATS["alpaca"], *FORMATS[row_format]]
    assert is_alpaca(columns) == (detect_format(columns, "pool") == "alpaca")


def test_a_stream_without_known_columns_is_not_alpaca():
    assert not is_alpaca(None)
    assert not is_alpaca(["instruction"])


def test_alpaca_columns_are_not_converted_where_trl_trains_on_another():
    columns = ["instruction", "output", "content"]
    assert is_alpaca(columns)
    assert not is_alpaca(columns, "content")
    assert not is_alpaca([*columns, "text"]) and is_alpaca([*columns, "text"], "other")


@pytest.mark.parametrize(
    ("name", "chat_template", "expected"),
    [("auto", "x", "chat"), ("auto", None, "plain"), ("nuggets", "x", "nuggets")],
)
def test_auto_gives_alpaca_columns_the_chat_template_where_there_is_one(name, chat_template, expected):
    assert resolve_alpaca_template(name, chat_template) == expected


def test_alpaca_columns_are_replaced_and_the_others_stay():
    found = alpaca_to_trl(Dataset.from_list([ROW]), "plain")
    assert found[0] == {"source": "x", "prompt": "Say\n\nred\n\n", "completion": "one"}
    chat = alpaca_to_trl(Dataset.from_list([ROW]), "chat")
    assert chat[0]["prompt"] == [{"role": "user", "content": "Say\n\nred"}]


def test_an_unusable_row_is_named():
    with pytest.raises(
        ValueError, match=r"Row 1 \(Alpaca columns\) cannot be trained or evaluated on: empty_completion"
    ):
        alpaca_to_trl(Dataset.from_list([ROW, {**ROW, "output": " "}]), "plain")
