"""A directory is read as datasets would read it, .csv fields stay text, and no result of a run becomes a row."""

from __future__ import annotations

import json
import logging

import pytest
from datasets import Dataset

from nuggets_trainer import NuggetsConfig
from nuggets_trainer.data.loading import check_paths, load_rows

ROW = {"instruction": "a", "output": "b"}
CONFIGS = """---
configs:
- config_name: one
  data_files: a.csv
  sep: ";"
- config_name: two
  data_files: b.csv
  sep: ";"
---
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def rows(tmp_path):
    """A directory with one file of rows."""
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "pool.jsonl").write_text(json.dumps(ROW) + "\n")
    return tmp_path / "rows"


def test_a_csv_beside_other_files_is_left_out_aloud(rows, caplog):
    """One .csv had all files of its directory parsed as CSV: the rows of pool.jsonl were lines of JSON."""
    (rows / "more.jsonl").write_text(json.dumps({**ROW, "output": "c"}) + "\n")
    (rows / "notes.csv").write_text("note\nx\n")
    with caplog.at_level(logging.WARNING, logger="nuggets_trainer"):
        assert sorted(load_rows(str(rows))["output"]) == ["b", "c"]
    assert "1 data files of" in caplog.text and "(notes.csv)" in caplog.text


@pytest.mark.parametrize(("name", "expected"), [("one", "NA"), ("two", "007")])
def test_a_configuration_of_csv_files_is_obeyed(name, expected, tmp_path, caplog):
    """`--dataset_config` was ignored where there was a .csv, and so was its separator."""
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "README.md").write_text(CONFIGS)
    (tmp_path / "rows" / "a.csv").write_text("instruction;output\nx;NA\n")
    (tmp_path / "rows" / "b.csv").write_text("instruction;output\nx;007\n")
    for streaming in (False, True):
        found = load_rows(str(tmp_path / "rows"), config=name, streaming=streaming)
        assert list(found) == [{"instruction": "x", "output": expected}]
    assert "not read" not in caplog.text


def test_tabs_separate_the_fields_of_a_tsv(tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "train.tsv").write_text("instruction\toutput\nNA\t007\n")
    assert load_rows(str(tmp_path / "rows"))[0] == {"instruction": "NA", "output": "007"}


def test_the_working_directory_is_a_directory(rows, monkeypatch):
    monkeypatch.chdir(rows)
    assert list(load_rows(".")) == [ROW]


def test_a_directory_that_would_be_a_pattern_is_refused(rows):
    """The rows of rows1/ were read for those of rows[1]/."""
    (rows.parent / "rows1").mkdir()
    (rows.parent / "rows1" / "pool.jsonl").write_text(json.dumps({**ROW, "output": "wrong"}) + "\n")
    bracketed = rows.rename(rows.parent / "rows[1]")
    with pytest.raises(ValueError, match=r"rows\[1\]' has one of the characters .* Rename it, or name a file in it"):
        load_rows(str(bracketed))
    assert list(load_rows(str(bracketed / "pool.jsonl"))) == [ROW]
    Dataset.from_list([ROW]).save_to_disk(bracketed.parent / "saved[1]")
    assert list(load_rows(str(bracketed.parent / "saved[1]"))) == [ROW]


@pytest.mark.parametrize("option", ["score_dir", "output_dir", "output_file"])
@pytest.mark.parametrize("row_option", ["dataset_name", "anchors"])
def test_nothing_is_written_into_a_directory_of_rows(option, row_option, rows):
    def check(place):
        config = {"score_dir": str(place)} if option == "score_dir" else {}
        outputs = {} if option == "score_dir" else {option: str(place)}
        names = {"dataset_name": str(rows)}
        if row_option == "anchors":
            config, names = {**config, "anchors": str(rows)}, {}
        check_paths(NuggetsConfig(**config), names, {}, outputs)

    for inside in (rows, rows / "scores", rows / "deep" / "er", rows.parent / "x" / ".." / "rows" / "y"):
        with pytest.raises(ValueError, match=f"`--{option}` must lie outside of .*`--{row_option}`"):
            check(inside)
    for outside in (rows.parent / "rows2", rows.parent, rows / ".scores"):
        check(outside)
    if option == "score_dir":
        check("memory://rows/scores")


def test_a_file_and_a_saved_dataset_may_have_scores_beside_them(rows):
    check_paths(NuggetsConfig(score_dir=str(rows / "scores")), {"dataset_name": str(rows / "pool.jsonl")}, {})
    Dataset.from_list([ROW]).save_to_disk(rows.parent / "saved")
    check_paths(NuggetsConfig(score_dir=str(rows.parent / "saved" / "scores")), {"d": str(rows.parent / "saved")}, {})


def results(place):
    Dataset.from_list([{"score": 1.0}]).to_parquet(place / "scores.parquet")
    Dataset.from_list([{"zero_shot": 1.0}]).to_parquet(place / "anchors.parquet")


def store(place):
    (place / "manifest.json").write_text(json.dumps({"layout": 2, "fields": {}}))
    (place / "parts").mkdir()
    for i in range(3):  # more than there are files of rows: datasets would read these alone
        Dataset.from_list([{"one_shot": float(i)}]).to_parquet(place / "parts" / f"{i}.parquet")


def checkpoint(place):
    (place / "trainer_state.json").write_text("{}")


@pytest.mark.parametrize("write", [results, store, checkpoint])
def test_results_in_a_directory_are_not_read_as_rows(write, rows):
    (rows / "run").mkdir()
    write(rows / "run")
    with pytest.raises(
        ValueError, match=r"rows' holds the results of a run in '.*run', and they would be read as rows"
    ):
        load_rows(str(rows))
    (rows / "run").rename(rows.parent / "run")
    assert list(load_rows(str(rows))) == [ROW]


def test_a_users_own_manifest_is_no_result(rows):
    (rows / "manifest.json").write_text(json.dumps(ROW))
    assert list(load_rows(str(rows))) == [ROW, ROW]
