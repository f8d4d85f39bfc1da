"""Scores that another program gave to the rows of a pool: one column of a file, matched row by row.

A file says in one of four ways which row of the pool a line is about; the first that it has counts:

1. the column `content_hash`, the hash of `Row.key`;
2. the rows themselves, in any format that a pool may have; rows of the same text are the same row;
3. the column `index`, places in the pool from 0 on, as in scores.parquet;
4. the order of the pool, if there is none of these, and no other column that seems to name rows.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nuggets_trainer.data.columns import map_columns
from nuggets_trainer.data.formats import fitting_formats
from nuggets_trainer.data.loading import load_rows
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.wording import counted

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

    from nuggets_trainer.config.column_mapping import ColumnMapping

Floats = npt.NDArray[np.float64]
SPELLING = "NAME=FILE or NAME=FILE:COLUMN, and NAME=FILE:-COLUMN where low values are best"
INDEX, CONTENT_HASH, DROPPED = "index", "content_hash", "dropped"
SHOWN = 5  # rows that an error names
# Columns by which a file may name its rows; pandas calls its own index `__index_level_0__` and `Unnamed: 0`.
IDENTIFIER = re.compile(
    r"(.*[._-])?(id|ids|idx|index|uid|uuid|guid|row|line|key|hash|md5|sha\d*)|__index_level_\d+__|unnamed: 0|", re.I
)


class ScoreFile(NamedTuple):
    """Where the scores of one name are.

    Attributes:
        name: name that the user gave the scores.
        file: .parquet, .csv, .jsonl or .json file.
        column: column with the scores, a dot before the name of an inner field; None for the only one there is.
        lowest_first: whether low values are best.
    """

    name: str
    file: str
    column: str | None = None
    lowest_first: bool = False

    def __str__(self) -> str:
        return f"--scores {self.name}={self.file}"


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class RowScores:
    """Scores of the `n` rows of a pool; high values are best.

    Attributes:
        values: scores, `(n,)`; NaN for rows that cannot be read, and for those that the file says were dropped.
        by_anchor: scores by anchor, `(n, m)`, whose means are `values`; None if the file has one number for each row.
    """

    values: Floats
    by_anchor: Floats | None = None


def parse_score_file(text: str) -> ScoreFile:
    """Read `NAME=FILE[:COLUMN]`.

    Raises:
        ValueError: if it is written otherwise.

    Example:
        >>> parse_score_file("ppl=scores.parquet:-perplexity")
        ScoreFile(name='ppl', file='scores.parquet', column='perplexity', lowest_first=True)
    """
    found = re.fullmatch(r"(\w[\w.+-]*)=(.+?\.(?:parquet|csv|jsonl|json))(?::(-?)(.+))?", text)
    if found is None:
        raise ValueError(
            f"`scores` must be {SPELLING}, got {text!r}. The file must end in .parquet, .csv, .jsonl or .json; the "
            "name may have letters, digits and `_.+-`."
        )
    name, file, sign, column = found.groups()
    return ScoreFile(name, file, column, sign == "-")


def read_row_scores(source: ScoreFile, pool: Pool, mapping: ColumnMapping | None = None) -> RowScores:
    """Read the scores of a pool's rows.

    Args:
        source: file and column.
        pool: rows that the scores belong to.
        mapping: which column of the rows is which, as for the pool; a file without such columns is read as it is.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the column is not there or holds other things than numbers, if it is not sure which row a line
            is about, or if a row of the pool has no score, or two. The error names the first such rows.
    """
    option = f"--scores {source.name}"
    lines = map_columns(load_rows(source.file, option=option), mapping, option, is_pool=False)
    flat = lines.flatten()
    column = source.column or _only_column(source, flat, pool)
    if column not in flat.column_names:
        raise ValueError(f"`{source}`: there is no column {column!r}. Its columns are {', '.join(flat.column_names)}.")
    numbers = _numbers(flat[column][:], f"`{source}`: the column {column!r}")
    if source.lowest_first:
        numbers = -numbers
    was_dropped = np.zeros(len(lines), dtype=np.bool_)
    if DROPPED in lines.column_names:
        was_dropped = np.array([reason not in (None, "") for reason in lines[DROPPED]])
    places = _places(source, lines, column, numbers, pool)
    is_missing = np.isnan(numbers.reshape(len(numbers), -1)).any(axis=1)
    _check_complete(source, column, pool, places, is_missing & ~was_dropped)
    scored = np.full((len(pool), *numbers.shape[1:]), np.nan)
    scored[places >= 0] = numbers[places[places >= 0]]
    scored[_unreadable(pool)] = np.nan
    if np.isnan(scored).all():
        raise ValueError(
            f"`{source}`: no row of the pool has a number in {column!r}. Give scores of at least two rows."
        )
    if np.nanmax(scored) == np.nanmin(scored):
        raise ValueError(f"`{source}`: all rows have the score {np.nanmin(scored):g} in {column!r}, which ranks none.")
    if scored.ndim == 1:
        return RowScores(scored)
    return RowScores(scored.mean(axis=1), scored)


def _only_column(source: ScoreFile, flat: Dataset, pool: Pool) -> str:
    """Return the column that can only be meant: the one of the scores' name, or the only one of numbers."""
    if source.name in flat.column_names:
        return source.name
    columns = []
    for name, feature in flat.features.items():
        is_text = getattr(feature, "dtype", "") in ("string", "large_string") and not source.file.endswith(".csv")
        if name not in (INDEX, CONTENT_HASH, DROPPED, *pool.dataset.column_names) and not is_text:
            columns.append(name)
    if len(columns) != 1:
        raise ValueError(
            f"`{source}`: say which column has the scores: {source.name}={source.file}:COLUMN. Its columns are "
            f"{', '.join(flat.column_names)}."
        )
    return str(columns[0])


def _numbers(values: Sequence[Any], where: str) -> Floats:
    """Turn a column into numbers, `(lines,)`, or `(lines, m)` if it holds lists; NaN where there is none."""
    lengths = set()
    for value in values:
        if isinstance(value, list):
            lengths.add(len(value))
    if not lengths:
        return np.array([_number(value, line, where) for line, value in enumerate(values)])
    if len(lengths) > 1 or lengths == {0}:
        raise ValueError(f"{where} holds lists of {min(lengths)} to {max(lengths)} numbers. Expected as many in each.")
    numbers = np.full((len(values), lengths.pop()), np.nan)
    for line, value in enumerate(values):
        for place, part in enumerate(value or []):
            numbers[line, place] = _number(part, line, where)
    return numbers


def _number(value: Any, line: int, where: str) -> float:
    if value is None or value == "":
        return np.nan
    try:
        return float(value)  # a .csv holds texts
    except (TypeError, ValueError):
        raise ValueError(f"{where} must hold numbers, got {value!r} in row {line}.") from None


def _places(source: ScoreFile, lines: Dataset, column: str, numbers: Floats, pool: Pool) -> npt.NDArray[np.int64]:
    """Return the line of the file that is about each row of the pool, `(n,)`; -1 where there is none."""
    keys, _ = pool.read_keys()
    pool_keys: Sequence[Hashable] = range(len(pool))
    if CONTENT_HASH in lines.column_names:
        pool_keys, line_keys = keys, lines[CONTENT_HASH][:]
    elif fitting_formats(lines.column_names, pool.text_field):
        written = Pool(lines, f"--scores {source.name}", text_field=pool.text_field)
        line_keys = list(map(written.texts.get, written.read_keys()[0]))
        pool_keys = list(map(pool.texts.get, keys))
    elif INDEX in lines.column_names:
        line_keys = _indices(source, lines[INDEX][:], len(pool))
    elif len(lines) == len(pool):
        _check_order_is_meant(source, lines, column)
        line_keys = list(range(len(pool)))
    else:
        raise ValueError(
            f"`{source}` has {counted(len(lines), 'row')}, but the pool has {len(pool):,}. Nothing in the file says "
            f"which rows these are: give it the column `{INDEX}` (places in the pool from 0 on) or `{CONTENT_HASH}`, "
            "or the rows themselves."
        )
    if list(line_keys) == list(pool_keys):  # the pool itself: rows that occur twice may have two scores
        return np.arange(len(pool), dtype=np.int64)
    line_of: dict[Hashable, int] = {}
    for line, key in enumerate(line_keys):
        first = line_of.setdefault(key, line)
        if key is not None and not np.array_equal(numbers[first], numbers[line], equal_nan=True):
            raise ValueError(
                f"`{source}`: rows {first} and {line} are about the same row of the pool, but their scores differ. "
                "Keep one of them."
            )
    line_of.pop(None, None)  # lines that cannot be read as rows
    return np.array([line_of.get(key, -1) for key in pool_keys], dtype=np.int64)


def _check_order_is_meant(source: ScoreFile, lines: Dataset, column: str) -> None:
    """Refuse columns that seem to say which row a line is about: the lines may be in another order than the pool."""
    naming = []
    flat = lines.flatten()
    types = flat.features.arrow_schema
    for name in flat.column_names:
        if name in (column, DROPPED):
            continue
        if IDENTIFIER.fullmatch(name):
            is_naming = not _counts_up(flat[name][:])
        else:
            is_naming = _holds_text(types.field(name).type) and not _are_numbers(flat[name][:])
        if is_naming:
            naming.append(name)
    if naming:
        raise ValueError(
            f"`{source}`: the columns {naming} do not say which row of the pool a line is about. Give the whole rows, "
            f"`{INDEX}` or `{CONTENT_HASH}`; or the scores alone, in the pool's order."
        )


def _counts_up(values: Sequence[Any]) -> bool:
    """Return whether values are 0, 1, 2 and so on, as numbers or texts: then the lines are in order."""
    return list(map(str, values)) == list(map(str, range(len(values))))


def _holds_text(kind: pa.DataType) -> bool:
    """Return whether there is text in values of this type, or inside their lists and mappings."""
    import pyarrow.types as is_type

    if is_type.is_string(kind) or is_type.is_large_string(kind):
        return True
    return any(_holds_text(kind.field(i).type) for i in range(kind.num_fields))


def _are_numbers(values: Sequence[Any]) -> bool:
    """Return whether all values are numbers, also such as a .csv writes, or missing."""
    try:
        for line, value in enumerate(values):
            _number(value, line, "")
    except ValueError:
        return False
    return True


def _indices(source: ScoreFile, values: Sequence[Any], num_rows: int) -> list[int]:
    """Check places in the pool: whole numbers from 0 on, each at most once."""
    found: dict[int, int] = {}
    for line, value in enumerate(values):
        index = _number(value, line, f"`{source}`: the column `{INDEX}`")
        if not (0 <= index < num_rows and index == int(index)):
            raise ValueError(
                f"`{source}`: `{INDEX}` must be a place in the pool, from 0 to {num_rows - 1}, got {value!r} in row "
                f"{line}."
            )
        if int(index) in found:
            raise ValueError(
                f"`{source}`: `{INDEX}` {int(index)} is in row {found[int(index)]} and in row {line}. Keep one."
            )
        found[int(index)] = line
    return list(found)


def _check_complete(
    source: ScoreFile, column: str, pool: Pool, places: npt.NDArray[np.int64], is_missing: npt.NDArray[np.bool_]
) -> None:
    """Refuse a file in which a row of the pool has no score."""
    absent = places < 0
    if absent.all():
        raise ValueError(
            f"`{source}`: none of its rows is a row of the pool. Give the scores of this very pool. If they are in "
            "the order of the pool, leave all columns but the scores out of the file."
        )
    readable = ~_unreadable(pool)
    without_line = np.flatnonzero(absent & readable)
    without_number = np.flatnonzero(~absent & is_missing[places] & readable)
    for rows, what in ((without_line, "are not in the file"), (without_number, f"have no number in {column!r}")):
        if len(rows):
            shown = ", ".join(map(str, rows[:SHOWN])) + (", ..." if len(rows) > SHOWN else "")
            raise ValueError(
                f"`{source}`: {len(rows):,} of {counted(len(pool), 'row')} of the pool {what}: {shown}. Each row "
                "needs a score. Give the worst value to rows that should not be chosen."
            )


def _unreadable(pool: Pool) -> npt.NDArray[np.bool_]:
    """Return which rows cannot be read, `(n,)`: no arm takes them."""
    keys, _ = pool.read_keys()
    found: npt.NDArray[np.bool_] = np.array(keys) == ""
    return found
