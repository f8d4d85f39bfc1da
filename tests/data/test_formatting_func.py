"""What a `formatting_func` writes is read as the text that TRL trains on."""

from __future__ import annotations

import pytest
from datasets import Dataset

from nuggets_trainer.data.anchors import anchors_like
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import Row

QUESTIONS = [{"q": "red?", "a": "one"}, {"q": "blue?", "a": ""}, {"q": "green?", "a": "two"}]


def write(row: dict[str, str]) -> str:
    return f"Q: {row['q']}\nA: {row['a']}\n"


def test_without_response_field_all_text_is_completion():
    pool = Pool(Dataset.from_list(QUESTIONS), formatting_func=write)
    assert (pool.format, pool.is_conversational, pool.is_text_only) == ("formatting_func", False, True)
    assert pool[0] == Row("", "Q: red?\nA: one\n")


def test_the_response_field_splits_the_text():
    pool = Pool(Dataset.from_list([*QUESTIONS, {"q": "day?", "a": None}]), "pool", write, "a")
    assert not pool.is_text_only
    assert pool[0] == Row("Q: red?\nA: ", "one\n")
    assert pool.read_keys()[1] == {1: "empty_completion", 3: "completion_not_text"}
    assert pool.dataset[0] == QUESTIONS[0]


def test_a_function_may_change_the_record_it_is_given():
    def write_in_place(row):
        row["q"] = row["q"].upper()
        return write(row)

    pool = Pool(Dataset.from_list(QUESTIONS), "pool", write_in_place, "a")
    assert pool[0] == Row("Q: RED?\nA: ", "one\n")


def test_anchors_with_its_columns_use_the_function():
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
def test_a_function_that_does_not_fit_is_refused(rows, function, field, error, message):
    with pytest.raises(error, match=message):
        Pool(Dataset.from_list(rows), "train_dataset", function, field)


def test_a_row_without_a_string_is_dropped():
    rows = Dataset.from_list(QUESTIONS)
    pool = Pool(rows, formatting_func=lambda row: None if row["a"] == "two" else write(row))
    assert pool.read_keys()[1] == {2: "completion_not_text"}


def test_a_function_and_a_text_field_are_refused():
    with pytest.raises(ValueError, match="`dataset_text_field='content'`.*Leave `dataset_text_field` out"):
        Pool(Dataset.from_list(QUESTIONS), formatting_func=write, text_field="content")
