"""A copy of a row that is worth less as an example differs in nothing else."""

from __future__ import annotations

from nuggets_trainer.data.row import Row
from nuggets_trainer.pipeline.corruptions import mismatched_completion, shuffled_completion


def test_a_shuffled_completion_keeps_words_and_layout():
    row = Row("Say it.", "one two three.\n\n four  five")
    copy = shuffled_completion(row)
    assert copy.completion != row.completion and copy.prompt == row.prompt
    assert sorted(copy.completion.split()) == sorted(row.completion.split())
    assert ["\n\n " in copy.completion, copy.completion.count(" ")] == [True, row.completion.count(" ")]
    assert shuffled_completion(row) == copy  # the same whenever it is asked for
    assert shuffled_completion(Row("Say it.", "one")) is None and shuffled_completion(Row("", "a a a")) is None


def test_every_kind_of_row_can_be_corrupted():
    talk = [{"role": "assistant", "content": "one two"}]
    parts = [{"role": "assistant", "content": [{"type": "text", "text": "one two"}]}]
    ask = [{"role": "user", "content": "?"}]
    assert shuffled_completion(Row(ask, talk)).completion[0]["content"] == "two one"
    assert shuffled_completion(Row(ask, parts)).completion[0]["content"][0]["text"] == "two one"
    assert mismatched_completion(Row(ask, talk), Row(ask, parts)).completion == parts
    alpaca = Row("a", "one two", "\n\n", ("a", ""))
    assert shuffled_completion(alpaca) == Row("a", "two one", "\n\n", ("a", ""))
    turns = Row(ask, talk, alpaca=("?", ""))  # rows with Alpaca columns are messages where they have a history
    assert mismatched_completion(turns, alpaca) is None
    assert mismatched_completion(turns, Row("a", "six")).completion == [{"role": "assistant", "content": "six"}]
    assert mismatched_completion(Row("a", "six"), turns).completion == "one two"
    tokens = Row("", "", tokens=((1, 5, 6, 7, 8, 2), (3, 4, 5)))
    assert shuffled_completion(tokens).tokens == ((1, 5, 6, 8, 7, 2), (3, 4, 5))
    donor = Row("", "", tokens=((1, 9, 3, 2), (2, 3)))
    assert mismatched_completion(tokens, donor).tokens == ((1, 5, 6, 3, 2), (3, 4))
    assert mismatched_completion(Row("", "text alone"), Row("", "other")) is None
    assert mismatched_completion(Row("a", "same"), Row("b", "same")) is None
