"""Rows that the datasets library cannot read: what is wrong with the file, and what mends it, as one message."""

from __future__ import annotations

import codecs
import contextlib
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from nuggets_trainer.data.directories import find_separator
from nuggets_trainer.wording import first_cause

ROW_FILES = {".json", ".jsonl", ".csv", ".tsv", ".parquet"}
BYTE_ORDER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SHOWN_CHARACTERS = 60
COMPARED_FILES = 1000  # of a directory, until the one that is broken is found
MANY_DIGITS = re.compile(rb"[0-9]{19}")  # so many has an integer outside of int64, at least
LONG_INTEGER = re.compile(r"(?<![0-9.eE+-])-?[0-9]{19,}(?![0-9.eE])")
JSON_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')


@contextlib.contextmanager
def errors_name_the_file(
    option: str, name: str | None = None, path: Path | None = None, name_a_config: str = ""
) -> Iterator[None]:
    """Turn whatever a library raises while it reads rows into one message.

    Args:
        option: option or argument that names the rows.
        name: the rows, as the user named them; None if they came as an object.
        path: local file or directory of the rows; None for rows on the hub.
        name_a_config: sentence that says how a configuration is named.

    Raises:
        OSError: if the system or the network fails; its own message says how.
        ValueError: in place of the library's error, which is its cause.
    """
    try:
        yield
    # Not only errors of datasets: it passes on those of pandas, pyarrow, json and codecs, and a bare StopIteration.
    except Exception as error:
        if isinstance(error, (OSError, MemoryError)):
            raise  # nothing there, a full disk, missing rights, no network: the message says it
        message = explain(error, option, name, path)
        if "onfig" in str(error):  # "Config name is missing", "BuilderConfig 'x' not found"
            message += name_a_config
        raise ValueError(message) from error


def check_no_null(option: str, files: Iterable[str | Path]) -> None:
    """Refuse files in which a line is `null`: pyarrow (26.0) reads it as a row without values, or crashes the process.

    It crashes where the line is the first of a block that it parses, such as the first one of the file.

    Args:
        option: option or argument that names the rows.
        files: local files; those that are not JSON are passed over.

    Raises:
        ValueError: if there is such a line in a JSONL file, or at the beginning of a JSON file.
    """
    for file in map(Path, files):
        if file.suffix not in (".json", ".jsonl") or not file.is_file():
            continue
        number = _null_line(file)
        if number is not None:
            raise ValueError(
                f"`{option}`: the rows in {str(file)!r} cannot be read: line {number:,} is null and not an object. "
                "Expected one JSON object per line. Mend or remove the line."
            )


def _null_line(file: Path) -> int | None:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            text = line.strip().removeprefix(codecs.BOM_UTF8)
            if text == b"null":
                return number
            if text and file.suffix == ".json":
                return None  # an array may have a line of its own for a value
    return None


def check_integers(option: str, files: Iterable[str | Path]) -> None:
    """Refuse JSON files with integers outside of int64: pyarrow reads their whole column as floats, which are rounded.

    Digits in a text do no harm.

    Args:
        option: option or argument that names the rows.
        files: local files; those that are not JSON are passed over.

    Raises:
        ValueError: if there is such an integer; the error names the file, the line and the integer.
    """
    for file in map(Path, files):
        if file.suffix not in (".json", ".jsonl"):
            continue
        found = _large_integer(file)
        if found is not None:
            raise ValueError(f"`{option}`: the rows in {str(file)!r} cannot be read: {found}")


def _large_integer(file: Path) -> str | None:
    """Say which line of a JSON file has the first integer outside of int64; None if there is none."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if MANY_DIGITS.search(line) is None:
                continue
            numbers = JSON_TEXT.sub('""', line.decode("utf-8", "replace"))  # a text ends in its line
            for digits in LONG_INTEGER.findall(numbers):
                if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
                    return (
                        f"line {number:,} has the integer {digits[:SHOWN_CHARACTERS]}. Expected integers up to "
                        f"{2**63 - 1:,}, because the reader rounds larger ones. Write it as a text, in quotes, or "
                        "leave its column out."
                    )
    return None


def explain(error: Exception, option: str, name: str | None, path: Path | None = None) -> str:
    """Say which file cannot be read and why.

    Args:
        error: what the library raised.
        option: option or argument that names the rows.
        name: the rows, as the user named them; None if they came as an object.
        path: local file or directory of the rows; None for rows on the hub.
    """
    for file in _row_files(path):
        found = _what_is_wrong(file)
        if found is not None:
            return f"`{option}`: the rows in {str(file)!r} cannot be read: {found}"
    which = "the rows" if name is None else f"the rows of {name!r}"
    return f"`{option}`: {which} cannot be read: {first_cause(error)}."


def _row_files(path: Path | None) -> list[Path]:
    """Return the files of rows: the file itself, or those of a directory."""
    if path is None or not path.exists():
        return []
    if path.is_file():
        return [path]
    found: list[Path] = []
    for file in sorted(path.rglob("*")):
        if file.suffix in ROW_FILES and file.is_file():
            found.append(file)
    return found[:COMPARED_FILES]


def _what_is_wrong(file: Path) -> str | None:
    """Look at a file of rows; None if nothing wrong is seen."""
    if file.stat().st_size == 0:
        return "the file is empty. Expected at least one row."
    if file.suffix == ".parquet":
        return _broken_parquet(file)
    if file.suffix == ".arrow":
        return "it is incomplete, or no Arrow file. Copy or download it again."
    wrong = _wrong_encoding(file)
    if wrong is not None:
        return wrong
    look = {".jsonl": _wrong_line, ".json": _wrong_json, ".csv": _ragged, ".tsv": _ragged}
    found = look[file.suffix](file)
    # Where smaller ones stand in an earlier block of the file, pyarrow raises an error.
    if found is None and file.suffix in (".json", ".jsonl"):
        found = _large_integer(file)
    return found


def _wrong_encoding(file: Path) -> str | None:
    """Say where a file is not UTF-8 and how it becomes so."""
    with file.open("rb") as lines:
        if lines.read(2) in BYTE_ORDER_MARKS:
            return f"it is UTF-16, but UTF-8 is expected. {_convert(file, 'UTF-16')}"
        lines.seek(0)
        for number, line in enumerate(lines, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = line[error.start]
                return (
                    f"byte {error.start + 1} of line {number:,} (0x{byte:02x}) is not UTF-8. Probably the file is "
                    f"Windows-1252 or Latin-1. {_convert(file, 'WINDOWS-1252')}"
                )
    return None


def _convert(file: Path, encoding: str) -> str:
    return f"Convert it: `{shell_line(f'iconv -f {encoding} -t UTF-8', file, f'utf8_{file.name}')}`."


def shell_line(program: str, file: Path, new_name: str) -> str:
    """Write a command that makes another file of one; the new file lies beside it.

    Args:
        program: name and options of the program, which takes the file as its last word.
        file: file to read, whose name may have spaces.
        new_name: name of the new file.

    Example:
        >>> shell_line("sort", Path("my rows/a.txt"), "b.txt")
        "sort 'my rows/a.txt' > 'my rows/b.txt'"
    """
    return f"{program} {shlex.quote(str(file))} > {shlex.quote(str(file.with_name(new_name)))}"


def _wrong_line(file: Path) -> str | None:
    """Say which line of a JSONL file is no JSON object."""
    wrong: str | None = None
    num_rows, has_values = 0, False
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if wrong is not None:
                return wrong
            if not line.strip():
                continue
            num_rows += 1
            has_values = has_values or line.strip() != "{}"
            found = _why_no_object(line)
            if found is not None and _why_no_object(line.strip().removesuffix(",")) is None:
                command = shell_line("sed 's/,[[:space:]]*$//'", file, f"rows_{file.name}")
                return (
                    f"line {number:,} ends with a comma. Expected one JSON object per line and nothing between them. "
                    f"Remove the commas: `{command}`."
                )
            if found is not None:
                wrong = (
                    f"line {number:,} is {found}: {line.strip()[:SHOWN_CHARACTERS]!r}. Expected one JSON object per "
                    "line. Mend or remove the line."
                )
    if wrong is not None and num_rows > 1:
        return f"{wrong} It is the last line: perhaps a download or a copy broke off."
    if not num_rows:
        return "it has no rows, only empty lines. Expected one JSON object per line."
    return wrong if has_values else "it has no values, only `{}`. Expected one JSON object per line."


def _wrong_json(file: Path) -> str | None:
    """Say what is wrong with a JSON file, which may also hold one object per line."""
    with file.open(encoding="utf-8-sig") as lines:
        first = next((line.strip() for line in lines if line.strip()), "")
    if first.startswith("{") and _why_no_object(first) is None:
        return _wrong_line(file)
    try:
        rows = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        return f"it is not JSON ({error}). Expected an array of objects, or one object per line (.jsonl)."
    return "it has no rows. Expected at least one." if not rows else None


def _ragged(file: Path) -> str | None:
    """Say which line of a CSV file has too many fields, or an open quote."""
    import pandas as pd

    num_rows = 0
    try:
        with pd.read_csv(file, chunksize=10_000, sep=find_separator(file)) as chunks:
            for chunk in chunks:
                num_rows += len(chunk)
    except ValueError as error:  # also pandas' ParserError and EmptyDataError
        return (
            f"{first_cause(error)}. Expected as many fields in each line as in the first one, and a closing quote "
            'behind each opening one. Put a field with a comma, a quote or a line break in double quotes: "a, b".'
        )
    return "it has a header, but no rows. Expected at least one." if num_rows == 0 else None


def _broken_parquet(file: Path) -> str | None:
    """Say why a file is no whole Parquet file."""
    import pyarrow.parquet as pq

    try:
        pq.read_metadata(file)
    except ValueError as error:  # pyarrow's ArrowInvalid
        return f"{first_cause(error)}. Copy or download it again: it is incomplete, or no Parquet file."
    return None


def _why_no_object(line: str) -> str | None:
    """Say why a line is no JSON object; None if it is one."""
    try:
        value = json.loads(line)
    except ValueError as error:
        return f"not JSON ({error})"
    if not isinstance(value, dict):
        return f"a JSON {type(value).__name__} and not an object"
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = error.object[error.start].encode("unicode_escape").decode("ascii")
        return f"no valid text, with half of a character ({half}: the other half of this escape is missing)"
    return None
