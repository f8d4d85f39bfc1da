"""Messages get the roles that chat templates know; what has no known meaning is named."""

from __future__ import annotations

import json
import logging

import pytest
from datasets import Dataset

from nuggets_trainer.data.messages import log_renamed_roles, read_messages
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import UnusableRowError
from tests.support.messages import ASSISTANT, USER, message, spoken

CALL = {"name": "look", "arguments": {"at": "red", "n": [1, 2.5]}}
CALLS = [{"type": "function", "function": CALL}]


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (json.dumps(CALL), ""),
        (json.dumps([CALL]), ""),
        (json.dumps({**CALL, "arguments": json.dumps(CALL["arguments"])}), ""),
        ("<think>hm</think>\n" + json.dumps(CALL), "<think>hm</think>"),
    ],
)
def test_a_function_call_becomes_a_tool_call(text, content):
    turns = [spoken("human", "a"), spoken("function_call", text), spoken("observation", "r"), spoken("gpt", "b")]
    assert read_messages(turns, "prompt") == [
        message(USER, "a"),
        message(ASSISTANT, content, tool_calls=CALLS),
        message("tool", "r"),
        message(ASSISTANT, "b"),
    ]


@pytest.mark.parametrize(
    "text", ["look()", "3", "[]", "{}", '{"name": "f", "arguments": 3}', '{"name": "f", "arguments": "x"}']
)
def test_a_call_that_cannot_be_read_is_named(text):
    with pytest.raises(UnusableRowError, match="^function_call_not_a_call$"):
        read_messages([spoken("human", "a"), spoken("function_call", text)], "prompt")


def test_roles_of_other_conversations_are_the_templates_own():
    """GLM-4's template has a role `observation`, and others have roles that nobody else has."""
    turns = [message(USER, "a"), message("observation", "r"), message("ipython", "p"), message(ASSISTANT, "b")]
    assert read_messages(turns, "prompt") == turns
    mixed = [message("human", "a"), message("observation", "r"), message("gpt", "b")]  # as TRL converts ShareGPT's
    assert [turn["role"] for turn in read_messages(mixed, "prompt")] == [USER, "tool", ASSISTANT]


def test_renamed_roles_are_said_once(caplog):
    log_renamed_roles.cache_clear()
    rows = Dataset.from_list([{"conversations": [spoken("human", "a"), spoken("gpt", "b")]}])
    with caplog.at_level(logging.INFO, logger="nuggets_trainer"):
        Pool(rows)
        Pool(rows)
    assert caplog.text.count("`train_dataset` has ShareGPT's roles") == 1
    assert "human as user, gpt as assistant" in caplog.text


def test_a_row_of_unknown_roles_is_dropped_a_pool_refused():
    good = {"conversations": [spoken("human", "a"), spoken("gpt", "b")]}
    bad = {"conversations": [spoken("Q", "a"), spoken("A", "b")]}
    assert Pool(Dataset.from_list([good, bad])).read_keys()[1] == {1: "unknown_role"}
    with pytest.raises(
        ValueError, match=r"Every row of `anchors` has a message of an unknown role: \['A', 'Q'\].*human"
    ):
        Pool(Dataset.from_list([bad, bad]), "anchors").read_keys()
