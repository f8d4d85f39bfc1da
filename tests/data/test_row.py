"""A row is known by its content hash and by the hash of its text."""

from __future__ import annotations

import datetime
import hashlib
import json

from datasets import Dataset

from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.read_row import read_row
from nuggets_trainer.data.row import Row
from tests.support.messages import ASSISTANT, SYSTEM, USER, message


def test_equal_rows_of_other_columns_have_equal_keys():
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


def test_keys_that_stores_on_disk_hold_do_not_change():
    """Taken before rows had tools, options or token ids: another key would score every stored row again."""
    messages = Row([message(SYSTEM, "s"), message(USER, "a", name="x")], [message(ASSISTANT, "b")])
    alpaca = Row("Say\n\nred", "one", separator="\n\n", alpaca=("Say", "red"))
    keys = [row.key for row in (Row("a ", "é\ud800"), alpaca, messages)]
    assert keys == [
        "2e97da54a0b8afac83323ee8256a8b04",
        "e2cde51427995609051266115e03ad55",
        "19c2488b18d27a4aaade9abe8a9b22cd",
    ]


def test_a_key_is_the_hash_of_plain_json():
    """Texts are written into the JSON without an encoder, which takes a third of the time."""
    options = {"sort_keys": True, "ensure_ascii": False, "default": str}
    for text in ('\x00 "a"\\/\u2028\x1c\x7f b\x85\xa0c', "red\n\t one ", "\u4f60\u597d \U0001f600", "\ud800"):
        row = Row(text, f" {text}", "\n", alpaca=("Say", text))
        content = [[text.strip(), text.strip()], [text, "\n", f" {text}", ["Say", text]]]
        digests = []
        for part in [*content, ["".join(f"{text} {text}".split()), []]]:
            written = json.dumps(part, **options).encode("utf-8", "surrogatepass")
            digests.append(hashlib.sha256(written).hexdigest()[:16])
        assert [row.key, row.text_key] == [digests[0] + digests[1], digests[2]]


def test_equal_token_ids_have_equal_text_keys():
    rows = [Row("", "", tokens=((1, 2, 3), scored)) for scored in ((1, 2), (2,))]
    assert rows[0].text_key == rows[1].text_key
    assert rows[0].text_key != Row("", "", tokens=((1, 2, 4), (2,))).text_key


def test_rows_that_say_the_same_have_equal_text_keys():
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
    assert pool.texts == {same[1].key: same[0].text_key} and len(pool.texts) == 1
    assert [pool.texts.get(key) for key in ("", other.key, "f" * 32)] == [None, None, None]


def test_tool_calls_beside_text_enter_the_text_key():
    rows = [
        Row([message(USER, "a")], [message(ASSISTANT, "Let me look.", tool_calls=[{"function": {"name": name}}])])
        for name in ("x", "y")
    ]
    assert len({row.text_key for row in [*rows, Row("a", "Let me look.")]}) == 3


def test_the_order_of_keys_in_tools_enters_the_key():
    """A chat template writes JSON in its own order: rows of one key were rendered to different ids."""
    one, other = {"a": 1, "b": 2}, {"b": 2, "a": 1}
    turns = [message(USER, "a")], [message(ASSISTANT, "b")]
    assert one == other
    for name in ("tools", "template_kwargs"):
        assert Row(*turns, **{name: [one]}).key != Row(*turns, **{name: [other]}).key
    calls = [Row(turns[0], [message(ASSISTANT, "b", tool_calls=[call])]) for call in (one, other)]
    assert calls[0].key != calls[1].key and calls[0].text_key == calls[1].text_key


def test_lone_surrogates_and_very_long_text_survive():
    long = "word " * 400_000
    assert read_row({"prompt": "a\ud83d", "completion": "\udc00"}, "prompt_completion").prompt == "a\ud83d"
    row = Pool(Dataset.from_list([{"prompt": long, "completion": "b"}]))[0]
    assert row.prompt == long
    assert len(row.key) == 32
    assert row.key != Row(long + " ", "b").key


def test_messages_with_dates_have_a_key():
    """Conversations from logs carry a timestamp in each message, which Arrow gives back as `datetime`."""
    when = [datetime.datetime(2024, 1, day) for day in (1, 2)]
    rows = [{"messages": [message(USER, "a", at=t), message(ASSISTANT, "b", at=t)]} for t in when]
    keys, dropped = Pool(Dataset.from_list(rows)).read_keys()
    assert len(keys) == 2
    assert not dropped
