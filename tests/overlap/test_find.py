"""What a pool has twice and shares with tests, and what the options leave out of it."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset

from nuggets_trainer import NuggetsConfig, Pool
from nuggets_trainer.overlap import find
from nuggets_trainer.overlap.find import check_heldout, exclude_overlap, find_overlap

QUESTION = "How many sheep does a farmer have left in the morning when all but nine of seventeen run away at night?"
LONG = "The hills were quiet and the road was long, and nobody came that way for a week or more until the rain ended."
ROWS = [
    {"instruction": "Tell.", "output": LONG},
    {"instruction": "Sing.", "output": "La."},
    {"instruction": "Tell.", "output": LONG},
    {"instruction": "Tell.", "output": LONG.replace("quiet", "silent")},
    {"instruction": "", "output": "unreadable"},
    {"instruction": QUESTION, "output": "Nine."},
    {"instruction": QUESTION, "output": "Nine."},
]


def pool(rows=ROWS) -> Pool:
    return Pool(Dataset.from_list(rows))


def write_test(tmp_path, questions=(QUESTION,)) -> str:
    file = tmp_path / "test.jsonl"
    file.write_text("".join(json.dumps({"question": question}) + "\n" for question in questions))
    return str(file)


def reasons(rows: Pool, **options) -> dict[int, str]:
    exclude_overlap(rows, NuggetsConfig(**options))
    return rows.read_keys()[1]


def test_each_option_leaves_out_its_rows(tmp_path):
    unreadable = {4: "empty_prompt"}
    test = write_test(tmp_path)
    rows = pool()
    exact = {**unreadable, 2: "duplicate", 6: "duplicate"}
    assert reasons(rows, deduplicate="no") == unreadable
    assert reasons(rows) == exact
    assert reasons(rows, deduplicate="near") == {**exact, 3: "near_duplicate"}
    contaminated = {5: "contaminated", 6: "contaminated"}
    assert reasons(rows, decontaminate=[test]) == {**exact, **contaminated}
    assert reasons(rows, deduplicate="no", decontaminate=test) == {**unreadable, **contaminated}
    assert reasons(rows, deduplicate="no") == unreadable  # what an earlier call left out is back


def test_the_numbers_are_told_whatever_is_left_out(tmp_path):
    test = write_test(tmp_path)
    found = exclude_overlap(pool(), NuggetsConfig(deduplicate="no", decontaminate=[test]))
    assert found["duplicates"] == 2 and found["near_duplicates"] == 1 and found["near_examples"] == [[0, 3]]
    assert found["contaminated"] == {test: 2} and found["questions"] == {test: 1}
    assert found["contaminated_examples"][0] == {"index": 5, "test": test, "question": 0, "kind": "same_words"}
    assert found["says"] == (
        "2 rows repeat an earlier one word for word (kept), 1 near-duplicate of others (kept; `--deduplicate near` "
        f"leaves them out), 2 rows hold questions of {test} (left out)"
    )
    json.dumps(found)
    nothing = exclude_overlap(pool(ROWS[:2]), NuggetsConfig())
    assert nothing["says"] == "0 rows repeat an earlier one, 0 near-duplicates"


def test_a_pool_is_looked_through_once_for_the_same_tests(monkeypatch):
    """A training job makes a request for its checks, one for its settings, and one for each choice."""
    calls = []
    monkeypatch.setattr(find, "find_overlap", lambda *args: calls.append(1) or find_overlap(*args))
    rows = pool()
    for _ in range(2):
        exclude_overlap(rows, NuggetsConfig())
    exclude_overlap(pool(), NuggetsConfig())
    assert len(calls) == 2


def test_without_rensa_exact_duplicates_are_found(monkeypatch):
    """It has no wheel for each system, and an exact duplicate needs none."""
    monkeypatch.setattr(find, "can_find_near", lambda: False)
    found = exclude_overlap(pool(), NuggetsConfig())
    assert found["duplicates"] == 2 and found["near_duplicates"] is None and "pip install rensa" in found["says"]
    with pytest.raises(ImportError, match="`deduplicate=near` needs rensa"):
        exclude_overlap(pool(), NuggetsConfig(deduplicate="near"))


def test_questions_are_not_looked_for_in_token_ids(tmp_path):
    rows = Pool(Dataset.from_list([{"input_ids": [5, 6, 7], "completion_mask": [0, 1, 1]}]))
    with pytest.raises(ValueError, match="compares words, but the rows of the pool are tokenized"):
        exclude_overlap(rows, NuggetsConfig(decontaminate=[write_test(tmp_path)]))


def test_held_out_rows_are_looked_for_in_the_pool():
    heldout = Dataset.from_list([{"prompt": f"  {QUESTION.lower()}", "completion": "9"}])
    other = Dataset.from_list([{"prompt": "What is the name of the tallest bird that cannot fly?", "completion": "9"}])
    found = check_heldout(pool(), {"math": heldout, "birds": other})
    assert found["rows"] == {"math": 2, "birds": 0}
    assert found["says"].startswith("2 rows of the pool hold the prompt of a held-out row, word for word or slightly")
    assert check_heldout(pool(), {"": other})["says"] == "No row of the pool holds the prompt of a held-out row."
    tokens = Dataset.from_list([{"input_ids": [5, 6]}])
    assert "was not searched" in check_heldout(pool(), {"": tokens})["says"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deduplicate": "nearly"}, "`deduplicate` must be one of no, exact, near, got 'nearly'"),
        ({"decontaminate": []}, "`decontaminate` must name at least one test"),
        ({"decontaminate": ["a.jsonl", 3]}, "`decontaminate` must list tests, .* got 3"),
        ({"decontaminate": [{"a": "a.jsonl"}]}, "`decontaminate` must list tests, .* got {'a'"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NuggetsConfig(**options)


def test_two_configurations_of_one_dataset_are_two_tests(monkeypatch):
    """They had one name, so that the questions of the first were not looked for."""
    asked = {"main": [QUESTION], "other": ["What is the tallest mountain of the world?"]}
    monkeypatch.setattr(find, "load_questions", lambda place, mapping: asked[place.name])
    tests = [{"path": "a/test", "name": name, "split": "test"} for name in asked]
    found = exclude_overlap(pool(), NuggetsConfig(decontaminate=tests))
    assert found["questions"] == {"a/test main (test)": 1, "a/test other (test)": 1}
    assert found["contaminated"] == {"a/test main (test)": 2}
