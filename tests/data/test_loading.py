"""Rows come from files, directories and saved datasets by name; a name that leads nowhere says so."""

from __future__ import annotations

import gzip
import json
import lzma
import re
from pathlib import Path

import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, load_dataset

from nuggets_trainer import NuggetsConfig
from nuggets_trainer.data.loading import COMPRESSIONS, FILE_BUILDERS, check_paths, load_rows

ROWS = [
    {"instruction": "Say é", "input": "", "output": "one\ntwo"},
    {"instruction": "b", "input": "c", "output": "d, e"},
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Nothing of a test stays in the user's cache, and nothing that lies there is taken for the test's file."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write(path, rows=ROWS):
    dataset = Dataset.from_list(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        dataset.to_csv(str(path))
    elif path.suffix == ".tsv":
        dataset.to_csv(str(path), sep="\t")
    elif path.suffix == ".arrow":
        table = dataset.data.table
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    else:
        dataset.to_parquet(str(path))
    return str(path)


def filled(rows):
    """CSV has no empty strings: they come back as null."""
    return [{key: value or "" for key, value in row.items()} for row in rows]


@pytest.mark.parametrize("suffix", sorted(FILE_BUILDERS))
def test_rows_of_a_file_come_back_in_their_order(suffix, tmp_path):
    loaded = load_rows(write(tmp_path / f"rows{suffix}"))
    assert filled(loaded) == ROWS
    assert loaded.column_names == ["instruction", "input", "output"]


@pytest.mark.parametrize("word", ["None", "NA", "null", "nan"])
def test_words_of_a_csv_are_never_missing_values(word, tmp_path):
    """Pandas takes them for null: the input would vanish without a trace, and the row with that answer be dropped."""
    (tmp_path / "rows.csv").write_text(f"instruction,input,output\n{word},{word},{word}\na,b,c\n")
    assert load_rows(str(tmp_path / "rows.csv"))[0] == {"instruction": word, "input": word, "output": word}


def test_numbers_of_a_csv_stay_text(tmp_path):
    """Pandas reads a column of numbers as numbers: every row would be dropped as `completion_not_text`."""
    (tmp_path / "rows.csv").write_text("instruction,output\n1 + 6 =,007\n1 + 1 =,2\n")
    assert load_rows(str(tmp_path / "rows.csv"))["output"][:] == ["007", "2"]


def test_the_six_file_types_are_known():
    assert set(FILE_BUILDERS) == {".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow"}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_directory_of_files_is_loaded(suffix, tmp_path):
    write(tmp_path / "rows" / f"train{suffix}")
    write(tmp_path / "rows" / f"test{suffix}", ROWS[:1])
    assert list(load_rows(str(tmp_path / "rows"))) == ROWS
    assert list(load_rows(str(tmp_path / "rows"), split="test")) == ROWS[:1]


def test_a_directory_may_be_named_like_a_file(tmp_path):
    write(tmp_path / "rows.parquet" / "train.parquet")  # as Spark writes them
    assert list(load_rows(str(tmp_path / "rows.parquet"))) == ROWS


def test_a_dataset_saved_to_disk_is_loaded(tmp_path):
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert list(load_rows(str(tmp_path / "saved"))) == ROWS


def test_a_split_saved_to_disk_is_loaded(tmp_path):
    DatasetDict(train=Dataset.from_list(ROWS), dev=Dataset.from_list(ROWS[1:])).save_to_disk(tmp_path / "saved")
    assert list(load_rows(str(tmp_path / "saved"))) == ROWS
    assert list(load_rows(str(tmp_path / "saved"), split="dev")) == ROWS[1:]


@pytest.mark.parametrize("saved", [True, False])
def test_a_missing_split_is_named_with_the_others(saved, tmp_path):
    if saved:
        DatasetDict(train=Dataset.from_list(ROWS), dev=Dataset.from_list(ROWS)).save_to_disk(tmp_path / "rows")
    else:
        write(tmp_path / "rows" / "train.jsonl")
    with pytest.raises(ValueError, match=r"rows' has no split 'valid'\. Found: train"):
        load_rows(str(tmp_path / "rows"), split="valid")


@pytest.mark.parametrize("suffix", sorted(FILE_BUILDERS))
def test_a_missing_file_is_named_with_the_known_types(suffix, tmp_path):
    known = ", ".join(FILE_BUILDERS)
    with pytest.raises(
        FileNotFoundError, match=rf"`name`: there is no file '.*rows\{suffix}'\. Expected rows in {known}"
    ):
        load_rows(str(tmp_path / f"rows{suffix}"))


def test_a_directory_without_rows_is_named(tmp_path):
    """The error of datasets named no option and no file type."""
    (tmp_path / "rows").mkdir()
    with pytest.raises(FileNotFoundError, match=r"`--anchors`: the directory '.*rows' has no rows\. Expected"):
        load_rows(str(tmp_path / "rows"), option="--anchors")


@pytest.mark.parametrize("name", ["rows.txt", "rows.txt.gz", "rows.jsonl.7z", "rows"])
def test_an_unknown_file_type_is_named_with_the_known(name, tmp_path):
    (tmp_path / name).write_text("x")
    known = ", ".join(FILE_BUILDERS)
    with pytest.raises(ValueError, match=rf"{name}' has an unknown file type\. Expected {known}"):
        load_rows(str(tmp_path / name))


def test_the_error_for_a_text_file_shows_how_to_convert_it(tmp_path):
    (tmp_path / "raw.txt").write_text("one text\n")
    command = f"jq -R -c 'select(. != \"\") | {{text: .}}' {tmp_path}/raw.txt > {tmp_path}/raw.jsonl"
    with pytest.raises(ValueError, match=re.escape(command)):
        load_rows(str(tmp_path / "raw.txt"))


def test_a_wrong_name_gets_the_most_similar_file_of_the_directory(tmp_path):
    for name in ("pool.jsonl", "anchors.jsonl"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"Did you mean '.*/pool\.jsonl'\?$"):
        load_rows(str(tmp_path / "pol.jsonl"))
    with pytest.raises(FileNotFoundError, match=r"Expected rows in [^?]*$"):
        load_rows(str(tmp_path / "quite_another.csv"))


def test_a_csv_in_a_directory_is_read_like_a_csv(tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "train.csv").write_text("instruction,input,output\nNone,NA,007\n")
    assert load_rows(str(tmp_path / "rows"))[0] == {"instruction": "None", "input": "NA", "output": "007"}


@pytest.mark.parametrize(
    ("option", "config", "rows", "models"),
    [
        ("--dataset_name", {}, {"dataset_name": "no/such/pool"}, {}),
        ("--dataset_name", {}, {"dataset_name": "pool.jsonl"}, {}),
        ("--anchors", {"anchors": "anchors.csv"}, {"dataset_name": "nuggets-demo/pool"}, {}),
        ("--anchors", {"anchors": {"a": "nuggets-demo/anchors", "b": "./b"}}, {}, {}),
        ("--model_name_or_path", {}, {}, {"model_name_or_path": "./no/model"}),
        ("--scorer_model", {"scorer_model": "/no/model"}, {}, {"model_name_or_path": "nuggets-demo/model"}),
    ],
)
def test_a_missing_path_is_refused_with_its_option(option, config, rows, models):
    with pytest.raises(FileNotFoundError, match=f"`{option}`: there is no "):
        check_paths(NuggetsConfig(**config), rows, models)


def test_names_of_the_hub_and_of_the_demo_pass():
    models = {"model_name_or_path": "Qwen/Qwen3-0.6B"}
    check_paths(NuggetsConfig(anchors="nuggets-demo/anchors"), {"dataset_name": "tatsu-lab/alpaca"}, models)


def test_a_dataset_that_is_nowhere_is_told_in_short(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(
        FileNotFoundError, match="`--anchors`: there is no file or directory 'no/where' here, and no dataset"
    ):
        load_rows("no/where", option="--anchors")


@pytest.mark.parametrize("name", ["rows.txt", "missing/rows"])
def test_a_path_that_leads_nowhere_is_named(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=name):
        load_rows(str(tmp_path / name))


@pytest.mark.parametrize("name", ["pool", "anchors", "heldout"])
def test_the_rows_of_the_demo_load_by_name(name):
    assert len(load_rows(f"nuggets-demo/{name}")) > 0


@pytest.mark.parametrize("name", ["rows[1]", "rows*", "rows?"])
def test_a_file_is_read_whatever_its_name(name, tmp_path):
    """Datasets takes a name for a pattern: `rows[1].jsonl` was read from rows1.jsonl, without a word."""
    other = write(tmp_path / "rows1.jsonl", ROWS[:1])
    for suffix in (".jsonl", ".csv", ".parquet"):
        assert filled(load_rows(write(tmp_path / f"{name}{suffix}"))) == ROWS
    assert list(load_rows(other)) == ROWS[:1]


def test_a_csv_on_the_hub_is_not_text_and_that_is_told(tmp_path, monkeypatch, caplog):
    """`NA` as an answer was dropped as `completion_not_text`, and `NA` as an input was read as none."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "rows.csv").write_text("instruction,input,output\nIs it there?,NA,7\nAnd now?,x,8\n")
    found = load_dataset("csv", data_files=str(tmp_path / "rows.csv"))  # what `load_dataset` gives for such a name
    monkeypatch.setattr("datasets.load_dataset", lambda *args, **options: found)
    load_rows("someone/rows")
    assert "someone/rows (train) is a .csv on the hub" in caplog.text
    assert "(1 missing values in `input`, `output` is int64)" in caplog.text
    caplog.clear()
    monkeypatch.undo()
    load_rows(str(tmp_path / "rows.csv"))
    assert caplog.text == ""


@pytest.mark.parametrize("suffix", sorted(COMPRESSIONS))
@pytest.mark.parametrize("suffix_inside", [".jsonl", ".csv", ".parquet"])
def test_a_compressed_file_is_read_as_what_is_inside(suffix, suffix_inside, tmp_path):
    plain = Path(write(tmp_path / f"rows{suffix_inside}"))
    packed = tmp_path / f"rows{suffix_inside}{suffix}"
    if suffix == ".xz":  # which pyarrow does not know
        packed.write_bytes(lzma.compress(plain.read_bytes()))
    else:
        with pa.output_stream(str(packed), compression=COMPRESSIONS[suffix]) as stream:
            stream.write(plain.read_bytes())
    assert list(load_rows(str(packed))) == ROWS
    assert list(load_rows(str(packed), streaming=True)) == ROWS


def test_a_compressed_file_that_was_changed_is_read_anew(tmp_path):
    for number in range(2):
        (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(json.dumps({"text": f"row {number}"}).encode()))
        assert load_rows(str(tmp_path / "rows.jsonl.gz"))["text"][:] == [f"row {number}"]


def test_a_compressed_file_that_is_broken_is_named(tmp_path):
    whole = gzip.compress(b'{"text": "one"}\n' * 1000)
    (tmp_path / "rows.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"rows\.jsonl\.gz' cannot be read: .*\. Copy or download the file again"):
        load_rows(str(tmp_path / "rows.jsonl.gz"))


@pytest.mark.parametrize("separator", [";", "\t", ","])
@pytest.mark.parametrize("place", ["rows.csv", "rows/train.csv"])
def test_the_separator_of_a_csv_is_found(separator, place, tmp_path):
    """A file of Excel, with semicolons and a byte order mark, had one column with the names of all."""
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    text = f'question{separator}answer\r\n"One, or two?"{separator}007\r\n"A; b\tc"{separator}NA\r\n'
    path.write_bytes(text.encode("utf-8-sig"))
    rows = load_rows(str(path.parent if "/" in place else path))
    assert list(rows) == [{"question": "One, or two?", "answer": "007"}, {"question": "A; b\tc", "answer": "NA"}]
