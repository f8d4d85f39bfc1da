"""A file of rows that cannot be read is one message that names the file, the fault and the remedy."""

import json
import shutil
import subprocess

import pytest

from nuggets_trainer import load_rows
from nuggets_trainer.data.dataset import take_pool

ROWS = [
    {"instruction": f"Write about thing {i}.", "output": f"Thing {i} rests near the d\u00f6or."} for i in range(20)
]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = "instruction,output\nSay d\u00f6or,d\u00f6or\n"

BROKEN = [
    ("cut.jsonl", JSONL[:-25].encode(), r"line 20 is not JSON .* last line: perhaps a download or a copy broke off"),
    ("inside.jsonl", (JSONL + "{oops\n" + JSONL).encode(), "line 21 is not JSON .*'{oops'.*Mend or remove the line"),
    ("commas.jsonl", JSONL.replace("\n", ",\n").encode(), r"line 1 ends with a comma.*sed 's/,\[\[:space:\]\]\*\$//'"),
    ("numbers.jsonl", b"1\n2\n", "line 1 is a JSON int and not an object"),
    ("blank.jsonl", b"\n\n", "has no rows, only empty lines"),
    ("latin1.jsonl", JSONL.encode("latin-1"), r"byte 76 of line 1 \(0xf6\) is not UTF-8.*iconv -f WINDOWS-1252"),
    ("utf16.jsonl", JSONL.encode("utf-16"), "it is UTF-16, but UTF-8 is expected.*iconv -f UTF-16"),
    ("latin1.csv", CSV.encode("latin-1"), r"byte 6 of line 2 \(0xf6\) is not UTF-8"),
    ("utf16.csv", CSV.encode("utf-16"), "it is UTF-16"),
    ("ragged.csv", b"instruction,output\na,b\na,b,c\n", "Expected 2 fields in line 3, saw 3.*double quotes"),
    ("open.csv", b'instruction,output\na,"b\nc,d\n', "EOF inside string starting at row 1.*a closing quote"),
    ("header.csv", b"instruction,output\n", "it has a header, but no rows"),
    ("broken.json", b'[{"a": 1},', "it is not JSON .*Expected an array of objects"),
    ("none.json", b"[]", "it has no rows"),
    ("object.json", b"{}", "it has no values, only `{}`"),
    (
        "half.jsonl",
        b'{"text": "a \\ud83d"}\n',
        r"line 1 is no valid text, with half of a character",
    ),
    ("broken.arrow", b"and so on", "it is incomplete, or no Arrow file"),
    ("broken.parquet", b"PAR1 and so on", "Parquet magic bytes not found.*Copy or download it again"),
] + [(f"empty.{ending}", b"", "the file is empty") for ending in ("json", "jsonl", "csv", "parquet")]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN, ids=[name for name, _, _ in BROKEN])
def test_a_broken_file_is_one_message(tmp_path, name, content, message):
    """Each ended in a traceback of 23 to 77 lines that named neither the file nor the line."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_rows(str(tmp_path / name), option="--dataset_name")
    said = str(caught.value)
    assert said.startswith("`--dataset_name`: ") and str(tmp_path / name) in said
    assert "\n" not in said and caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("content", "new"),
    [(JSONL.replace("\n", ",\n").encode(), "rows_my rows.jsonl"), (JSONL.encode("latin-1"), "utf8_my rows.jsonl")],
)
def test_the_command_that_mends_a_file_can_be_pasted(tmp_path, content, new):
    """It failed for a name with spaces, and in each other directory than that of the file."""
    (tmp_path / "my rows.jsonl").write_bytes(content)
    with pytest.raises(ValueError) as caught:
        load_rows(str(tmp_path / "my rows.jsonl"))
    command = str(caught.value).split("`")[-2]
    subprocess.run(["bash", "-c", command], check=True)
    assert list(load_rows(str(tmp_path / new))) == ROWS


def test_a_broken_file_of_a_directory_is_named(tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.jsonl").write_text(JSONL)
    (tmp_path / "rows" / "b.jsonl").write_text(JSONL[:-30])
    with pytest.raises(ValueError, match=r"rows/b\.jsonl' cannot be read: line 20 is not JSON"):
        load_rows(str(tmp_path / "rows"))


def test_a_stream_that_breaks_off_is_one_message(tmp_path):
    (tmp_path / "cut.jsonl").write_text(JSONL[:-30])
    with pytest.raises(ValueError, match="cannot be read: ") as caught:
        take_pool(load_rows(str(tmp_path / "cut.jsonl"), streaming=True), 20, "dataset_name")
    assert "\n" not in str(caught.value)


def test_a_configuration_or_split_to_name_is_said(tmp_path):
    """Anchors could name neither, and the errors named a function of another library."""
    rows = tmp_path / "rows"
    rows.mkdir()
    for name in ("easy", "hard"):
        (rows / f"{name}.jsonl").write_text(JSONL)
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("easy", "hard"))
    (rows / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    for option, remedy in (("--dataset_name", "--dataset_config NAME"), ("--anchors", '"name": "NAME"')):
        with pytest.raises(ValueError, match=rf"`{option}`.*\['easy', 'hard'\].*{remedy}"):
            load_rows(str(rows), option=option)
    assert len(load_rows(str(rows), "hard")) == len(ROWS)
    shutil.rmtree(rows)
    rows.mkdir()
    (rows / "validation.jsonl").write_text(JSONL)
    for option, remedy in (("--dataset_name", "--dataset_train_split"), ("--anchors", '"split": "validation"')):
        with pytest.raises(ValueError, match=f"`{option}`.*no split 'train'. Found: validation.*{remedy}"):
            load_rows(str(rows), option=option)


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("rows.jsonl", f"\n null \n{JSONL}", 2),
        ("rows.jsonl", f"{JSONL}null\n{JSONL}", 21),
        ("rows.json", f"null\n{JSONL}", 1),
    ],
)
@pytest.mark.parametrize("in_directory", [False, True])
def test_a_null_line_does_not_end_the_process(name, text, line, in_directory, tmp_path):
    """Pyarrow crashed (signal 11) on such a first line, without a message."""
    (tmp_path / name).write_text(text)
    place = tmp_path if in_directory else tmp_path / name
    for streaming in (False, True):
        with pytest.raises(ValueError, match=f"`name`: the rows in .*{name}.*line {line} is null and not an object"):
            load_rows(str(place), streaming=streaming)


LARGE = 2**63


@pytest.mark.parametrize(
    ("name", "rows", "line"),
    [
        ("rows.jsonl", [{"id": 2**63 - 1}, {"id": LARGE}], 2),
        ("rows.jsonl", [{"id": 0.5, "meta": {"ids": [-LARGE - 1]}}], 1),
        ("rows.jsonl", [{"id": 10**4000}], 1),
        ("rows.json", [{"id": 1}, {"id": LARGE}], 10),
    ],
)
@pytest.mark.parametrize("in_directory", [False, True])
def test_an_integer_that_would_be_rounded_is_refused(name, rows, line, in_directory, tmp_path):
    """It became a float, and `nuggets select` wrote the float."""
    rows = [{"instruction": "a", "output": f"{LARGE} \\" + '"', **row} for row in rows]
    text = json.dumps(rows, indent=1)
    if name == "rows.jsonl":
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"`name`: the rows in .*{name}.*line {line} has the integer .*in quotes"):
        load_rows(str(tmp_path if in_directory else tmp_path / name))


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63), f"{LARGE}", 1e20, [0.5, 9223372036854775807.5]])
def test_integers_that_are_kept_exactly_are_read(value, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"instruction": "a", "output": f"{LARGE}", "id": value, "f": 0.5}))
    assert load_rows(str(tmp_path / "rows.jsonl"))[0]["id"] == value


def test_null_in_an_array_stays(tmp_path):
    (tmp_path / "rows.json").write_text('[\n{"instruction": "a", "output": "b", "x": [\nnull\n]}\n]')
    assert load_rows(str(tmp_path / "rows.json"))[0]["output"] == "b"
