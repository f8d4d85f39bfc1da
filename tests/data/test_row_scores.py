"""Scores of other programs: which row of the pool each is about, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from datasets import Dataset

from nuggets_trainer.config.column_mapping import read_column_mapping
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row_scores import ScoreFile, parse_score_file, read_row_scores
from tests.support.rows import alpaca_rows

ROWS = alpaca_rows(6)
SCORES = [0.5, 2.0, -1.0, 0.0, 3.5, 1.0]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def pool():
    return Pool(Dataset.from_list(ROWS))


def read(directory, pool, lines, ending="jsonl", column=None, lowest_first=False, mapping=None):
    path = directory / f"scores.{ending}"
    if ending == "jsonl":
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    elif ending == "csv":
        Dataset.from_list(lines).to_csv(str(path))
    else:
        Dataset.from_list(lines).to_parquet(str(path))
    return read_row_scores(ScoreFile("mine", str(path), column, lowest_first), pool, mapping)


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("by", ["order", "index", "content_hash", "rows"])
def test_each_row_gets_its_own_score(by, ending, pool, tmp_path):
    keys, _ = pool.read_keys()
    lines = [{"quality": score} for score in SCORES]
    if by == "order":
        assert read(tmp_path, pool, lines, ending).values.tolist() == SCORES
        return
    for i, line in enumerate(lines):
        line.update({"index": {"index": i}, "content_hash": {"content_hash": keys[i]}, "rows": ROWS[i]}[by])
    shuffled = [lines[i] for i in (3, 0, 5, 1, 4, 2)]
    found = read(tmp_path, pool, shuffled, ending)
    assert found.values.tolist() == SCORES and found.by_anchor is None


def test_low_values_are_best_behind_a_minus(pool, tmp_path):
    found = read(tmp_path, pool, [{"ppl": score} for score in SCORES], column="ppl", lowest_first=True)
    assert found.values.tolist() == [-score for score in SCORES]


def test_rows_match_in_another_format_and_inner_fields_are_read(pool, tmp_path):
    """Tools of the field write the rows as messages, and their scores into a mapping of their own."""
    lines = []
    for i in (5, 4, 3, 2, 1, 0):
        row = pool[i]
        turns = [{"role": "user", "content": row.prompt}, {"role": "assistant", "content": row.completion}]
        lines.append({"messages": turns, "tool": {"scores": {"ifd": SCORES[i], "length": 3.0}}})
    assert read(tmp_path, pool, lines, column="tool.scores.ifd").values.tolist() == SCORES


def test_scores_by_anchor_are_averaged_and_kept(pool, tmp_path):
    lines = [{"by_target": [score, score + 1.0]} for score in SCORES]
    found = read(tmp_path, pool, lines, "parquet")
    assert found.values.tolist() == [score + 0.5 for score in SCORES] and found.by_anchor.shape == (6, 2)


def test_rows_that_occur_twice_may_have_two_scores(tmp_path):
    rows = [*ROWS, ROWS[0]]
    twice = Pool(Dataset.from_list(rows))
    lines = [{**row, "quality": float(i)} for i, row in enumerate(rows)]
    assert read(tmp_path, twice, lines).values.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    with pytest.raises(ValueError, match="rows 0 and 5 are about the same row of the pool, but their scores differ"):
        read(tmp_path, twice, [*lines[:3], *lines[4:], lines[3]])


def test_rows_that_cannot_be_read_or_were_dropped_need_no_score(tmp_path):
    """The scores.parquet of another scorer can be an arm."""
    unreadable = Pool(Dataset.from_list([*ROWS, {"instruction": "x", "input": "", "output": ""}]))
    lines = [{"index": i, "golden_score": score, "dropped": None} for i, score in enumerate(SCORES)]
    lines[2] = {"index": 2, "golden_score": None, "dropped": "too_long"}
    found = read(tmp_path, unreadable, lines, "parquet", column="golden_score").values
    assert np.flatnonzero(np.isnan(found)).tolist() == [2, 6] and found[5] == SCORES[5]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_rows_with_columns_of_other_names_are_matched_by_their_texts(ending, pool, tmp_path):
    """A file sorted by its scores has as many lines as the pool, but not in the order of the pool."""
    lines = []
    for i in np.argsort(SCORES):
        row = ROWS[i]
        lines.append(
            {"question": row["instruction"], "input": row["input"], "answer": row["output"], "quality": SCORES[i]}
        )
    mapping = read_column_mapping(["instruction=question", "input=input", "output=answer"])
    assert read(tmp_path, pool, lines, ending, mapping=mapping).values.tolist() == SCORES
    with pytest.raises(ValueError, match="do not say which row of the pool a line is about"):
        read(tmp_path, pool, lines, ending, column="quality")
    in_order = [{"quality": score} for score in SCORES]
    assert read(tmp_path, pool, in_order, ending, mapping=mapping).values.tolist() == SCORES


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("instruction", [row["instruction"] for row in ROWS]),
        ("id", [3, 0, 5, 1, 4, 2]),
        ("sample_id", list("abcdef")),
        ("Unnamed: 0", [3, 0, 5, 1, 4, 2]),
    ],
)
def test_the_order_of_the_pool_is_not_taken_where_columns_seem_to_name_rows(name, values, ending, pool, tmp_path):
    lines = [{name: value, "quality": score} for value, score in zip(values, SCORES, strict=True)]
    with pytest.raises(
        ValueError, match=rf"the columns \['{name}'\] do not say which row of the pool a line is about"
    ):
        read(tmp_path, pool, lines, ending, column="quality")


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_several_scores_and_a_count_of_lines_leave_the_order_of_the_pool(ending, pool, tmp_path):
    lines = [{"id": i, "quality": score, "length": 2.0 * i, "flag": None} for i, score in enumerate(SCORES)]
    assert read(tmp_path, pool, lines, ending, column="quality").values.tolist() == SCORES


def test_messages_with_other_keys_are_not_taken_for_the_order_of_the_pool(pool, tmp_path):
    lines = [{"dialog": [{"who": "user", "says": "x"}], "quality": score} for score in SCORES]
    with pytest.raises(ValueError, match=r"\['dialog'\] do not say"):
        read(tmp_path, pool, lines, column="quality")


ORDERED = [{"quality": score} for score in SCORES]
INDEXED = [{"index": i, "quality": score} for i, score in enumerate(SCORES)]


@pytest.mark.parametrize(
    ("lines", "column", "message"),
    [
        (ORDERED[:5], None, "has 5 rows, but the pool has 6. .* give it the column `index`"),
        (INDEXED[:5], None, r"1 of 6 rows of the pool are not in the file: 5\. Each row needs a score"),
        (
            [*INDEXED[:5], {"index": 5, "quality": None}],
            None,
            r"1 of 6 rows of the pool have no number in 'quality': 5",
        ),
        ([*INDEXED, {"index": 1, "quality": 2.0}], None, "`index` 1 is in row 1 and in row 6. Keep one"),
        (
            [*INDEXED[:5], {"index": 6, "quality": 1.0}],
            None,
            "must be a place in the pool, from 0 to 5, got 6 in row 5",
        ),
        (INDEXED, "qualty", "there is no column 'qualty'. Its columns are index, quality"),
        ([{**line, "other": 1.0} for line in INDEXED], None, "say which column has the scores: mine=.*:COLUMN"),
        ([{"quality": "good"}] * 6, "quality", "must hold numbers, got 'good' in row 0"),
        ([{"quality": 1.0}] * 6, None, "all rows have the score 1 in 'quality', which ranks none"),
        ([{**row, "quality": 1.0} for row in alpaca_rows(3, seed=9)], None, "none of its rows is a row of the pool"),
        (
            [{"index": i, "quality": None, "dropped": "too_long"} for i in range(6)],
            "quality",
            "no row of the pool has a number in 'quality'",
        ),
        ([{"quality": [1.0, 2.0]}] * 5 + [{"quality": [1.0]}], None, "lists of 1 to 2 numbers"),
    ],
)
def test_a_wrong_file_is_refused(lines, column, message, pool, tmp_path):
    with pytest.raises(ValueError, match=rf"`--scores mine=.*{message}"):
        read(tmp_path, pool, lines, column=column)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ifd=a.jsonl", ("ifd", "a.jsonl", None, False)),
        ("ifd=a.jsonl:wana.scores.ifd", ("ifd", "a.jsonl", "wana.scores.ifd", False)),
        ("ppl=/x/v1.csv/a.parquet:-loss", ("ppl", "/x/v1.csv/a.parquet", "loss", True)),
        ("ppl=C:\\x\\a.csv:my column", ("ppl", "C:\\x\\a.csv", "my column", False)),
    ],
)
def test_name_file_and_column_are_told_apart(text, expected):
    assert parse_score_file(text) == expected


@pytest.mark.parametrize("text", ["a.parquet", "=a.parquet", "ifd=a.txt", "ifd=a.parquet:", "a b=a.csv"])
def test_a_wrong_spelling_is_refused(text):
    with pytest.raises(ValueError, match="must be NAME=FILE or NAME=FILE:COLUMN"):
        parse_score_file(text)
