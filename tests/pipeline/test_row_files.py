"""Rows of a golden set are written with their types, or refused where a type of file cannot hold them."""

from __future__ import annotations

import datetime
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, load_dataset

from nuggets_trainer.golden.ranking import ranked_value
from nuggets_trainer.pipeline.row_files import check_output_file, write_rows

CHOSEN = SimpleNamespace(indices=np.array([2, 0]))  # all that is read of a golden set
DAYS = [datetime.datetime(2024, 2, day) for day in (1, 2, 3)]
FLAT = {
    "prompt": ["a", "b\n", "ü"],
    "date": DAYS,
    "seen": [datetime.datetime(2024, 2, 1, 12, 30), None, datetime.datetime(2024, 2, 1)],
    "id": [10**18, None, 10**18 + 2],
    "score": [0.5, float("nan"), float("nan")],
}
EXPECTED = [
    {"prompt": "ü", "date": "2024-02-03", "seen": "2024-02-01T00:00:00", "id": 10**18 + 2, "score": None},
    {"prompt": "a", "date": "2024-02-01", "seen": "2024-02-01T12:30:00", "id": 10**18, "score": 0.5},
]
CHAT = {"messages": [[{"role": "user", "content": text}] for text in ("a", "b", "c")]}


def test_json_lines_keep_dates_and_integers(tmp_path):
    """Through pandas, dates became epoch milliseconds and integers beside nulls became floats."""
    write_rows(Dataset.from_dict(FLAT), CHOSEN, str(tmp_path / "new" / "golden.jsonl"))
    lines = (tmp_path / "new" / "golden.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == EXPECTED


def test_a_json_file_is_one_array(tmp_path):
    write_rows(Dataset.from_dict(FLAT), CHOSEN, str(tmp_path / "golden.json"))
    assert json.loads((tmp_path / "golden.json").read_text()) == EXPECTED


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
def test_messages_are_read_back_as_they_were(ending, tmp_path):
    file = str(tmp_path / f"golden.{ending}")
    write_rows(Dataset.from_dict(CHAT), CHOSEN, file)
    reader = {"jsonl": "json"}.get(ending, ending)
    found = load_dataset(reader, data_files=file, split="train", cache_dir=str(tmp_path / "cache"))
    assert found["messages"] == [CHAT["messages"][2], CHAT["messages"][0]]


def test_csv_holds_flat_rows_and_refuses_others(tmp_path):
    write_rows(Dataset.from_dict({"prompt": FLAT["prompt"]}), CHOSEN, str(tmp_path / "golden.csv"))
    assert pd.read_csv(tmp_path / "golden.csv")["prompt"].tolist() == ["ü", "a"]
    with pytest.raises(ValueError, match=r"columns messages: CSV has no lists.*Write a \.parquet or \.jsonl file"):
        write_rows(Dataset.from_dict(CHAT), CHOSEN, str(tmp_path / "chat.csv"))
    assert not (tmp_path / "chat.csv").exists()


def test_bytes_need_parquet(tmp_path):
    with pytest.raises(ValueError, match="columns blob: they are bytes"):
        write_rows(Dataset.from_dict({"blob": [b"a", b"b", b"c"]}), CHOSEN, str(tmp_path / "golden.jsonl"))


def test_another_ending_is_refused():
    with pytest.raises(ValueError, match="`output_file` must end in .parquet, .jsonl, .json, .csv, got 'x.txt'"):
        check_output_file("x.txt")


@pytest.mark.parametrize(("rank_by", "added"), [("gain", ["gain", "gain_error"]), ("loss", ["loss"])])
def test_scores_are_columns_and_a_signal_has_no_error(rank_by, added, tmp_path):
    chosen = SimpleNamespace(
        indices=np.array([2, 0]), ranked=ranked_value(rank_by), value=np.array([0.5, 0.25]), value_error=np.zeros(2)
    )
    write_rows(
        Dataset.from_dict({"prompt": ["a", "b", "c"]}), chosen, str(tmp_path / "golden.jsonl"), with_scores=True
    )
    rows = [json.loads(line) for line in (tmp_path / "golden.jsonl").read_text().splitlines()]
    assert list(rows[0]) == ["prompt", "rank", "pool_index", *added]
    assert [(row["rank"], row["pool_index"], row[rank_by]) for row in rows] == [(1, 2, 0.5), (2, 0, 0.25)]
