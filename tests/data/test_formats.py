"""Of several formats that columns have, the one that TRL trains on is read."""

from __future__ import annotations

import logging
import re

import pytest
from datasets import Dataset

from nuggets_trainer.data.anchors import anchors_like
from nuggets_trainer.data.formats import FORMATS, _log_format_choice, detect_format
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import Row
from tests.support.messages import ASSISTANT, USER, message


def test_the_first_format_of_the_table_is_read():
    columns = ["messages", "prompt", "instruction", "completion", "output"]
    assert detect_format(columns, "pool") == "prompt_completion"
    assert detect_format(["messages", "instruction", "output", "text"], "pool") == "messages"
    assert detect_format([*columns, "input_ids"], "pool") == next(iter(FORMATS)) == "tokenized"


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


def test_alpaca_columns_give_way_to_text(caplog):
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


def test_token_ids_win_over_other_columns():
    """TRL takes rows with `input_ids` for prepared; what else they have was scored instead."""
    rows = Dataset.from_list([{"input_ids": [5, 6], "messages": [message(USER), message(ASSISTANT)]}])
    assert Pool(rows).format == "tokenized"
    raw = Pool(rows, row_format="messages")
    assert raw[0] == Pool(rows.remove_columns("input_ids"))[0]
    assert anchors_like(rows, raw).format == "messages"  # anchors as the pool
    assert anchors_like(rows, Pool(Dataset.from_list([{"prompt": "a", "completion": "b"}]))).format == "messages"


def test_a_prompt_without_completion_is_refused():
    """The shape of ultrachat_200k: `prompt`, `prompt_id`, `messages`. The error was a bare KeyError."""
    rows = Dataset.from_list([{"prompt": "a", "messages": [message(USER), message(ASSISTANT)]}])
    with pytest.raises(ValueError, match=r"reads a row with `prompt` as.*--columns messages=messages"):
        Pool(rows)
    assert Pool(rows.remove_columns("prompt")).format == "messages"
    assert anchors_like(rows, Pool(rows.remove_columns("prompt"))).format == "messages"  # TRL does not see anchors


def test_the_words_beside_a_prompt_keep_the_system_message():
    rows = {"prompt": "a", "system": "Be brief.", "conversations": [{"from": "human", "value": "Hi"}]}
    rows["conversations"].append({"from": "gpt", "value": "Hello"})
    dataset = Dataset.from_list([rows])
    with pytest.raises(ValueError, match=r"leaves out `prompt`: `--columns (.*)` \(`columns`") as caught:
        Pool(dataset)
    words = re.search(r"`--columns (.*?)`", str(caught.value))
    assert words is not None
    row = Pool(dataset, columns=words[1])[0]
    assert isinstance(row, Row) and row.prompt[0] == {"role": "system", "content": "Be brief."}


def test_unknown_columns_are_shown_with_the_expected():
    expected = (
        r"\['question', 'response'\].*no known format.*`prompt` \+ `completion`.*`messages`.*`instruction` \+ `output`"
    )
    with pytest.raises(
        ValueError,
        match=rf"`train_dataset` has the columns {expected}.*--columns instruction=question output=response",
    ):
        Pool(Dataset.from_list([{"response": "b", "question": "a"}]))
    with pytest.raises(ValueError, match=r"columns \['instruction'\]"):  # half of a format is none
        Pool(Dataset.from_list([{"instruction": "a"}]))
