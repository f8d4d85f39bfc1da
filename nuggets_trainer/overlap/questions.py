"""Loading of the questions of a test: from a file, from the hub, or the official ones of AlpacaEval and MT-Bench."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nuggets_trainer.config.column_mapping import ColumnMapping
from nuggets_trainer.config.places import RowPlace
from nuggets_trainer.data.columns import map_columns
from nuggets_trainer.data.loading import load_rows
from nuggets_trainer.data.messages import read_messages
from nuggets_trainer.data.row import UnusableRowError, content_text
from nuggets_trainer.evaluation.questions import load_alpaca_eval, load_mt_bench

if TYPE_CHECKING:
    from datasets import Dataset

OFFICIAL = ("alpaca_eval", "mt_bench")
# Columns that may hold questions; the first one that the rows have is read. Answers are not read.
COLUMNS = ("prompt", "messages", "conversations", "instruction", "question", "turns", "text")


def load_questions(place: RowPlace, mapping: ColumnMapping | None) -> list[str]:
    """Load the questions of a test.

    Args:
        place: `alpaca_eval` or `mt_bench`, a file or directory, or a dataset on the hub.
        mapping: mapping of the columns, as for the pool; None if they have standard names.

    Raises:
        FileNotFoundError: if there is nothing of this name.
        ValueError: if there is no column with questions.
    """
    if place.path == "alpaca_eval":
        return [row["instruction"] for row in load_alpaca_eval(None, "v1")]
    if place.path == "mt_bench":
        return [turn for question in load_mt_bench(None) for turn in question.turns]
    rows = load_rows(place.path, place.name, place.split, option="--decontaminate")
    return questions_of(map_columns(rows, mapping, "decontaminate", is_pool=False), f"`decontaminate`: {place.path!r}")


def questions_of(dataset: Dataset, what: str) -> list[str]:
    """Return the user's texts of each row; for rows without a prompt, the whole text.

    Args:
        dataset: rows of a test, with or without answers.
        what: name of the rows in the error.

    Raises:
        ValueError: if no column holds questions.
    """
    names = dataset.column_names
    column = next((name for name in COLUMNS if name in names), None)
    if column is None:
        raise ValueError(
            f"{what} has the columns {sorted(names)}, but none of them is a known column of questions. Expected one "
            f"of {', '.join(COLUMNS)}. Map the column with `columns`, such as `--columns prompt=query`, or rename it."
        )
    with_input = column == "instruction" and "input" in names
    questions: list[str] = []
    for record in dataset.select_columns([column, "input"] if with_input else [column]).with_format(None):
        own = list(_texts(record[column]))
        if with_input and isinstance(record["input"], str) and own:
            own = [f"{own[0]}\n\n{record['input']}"]
        questions += own
    if not any(question.strip() for question in questions):
        raise ValueError(
            f"{what} must have questions in the column {column!r}, but that column has no text. Check the file."
        )
    return questions


def _texts(value: Any) -> Iterator[str]:
    """Yield a text; each of several texts; or what the user says in messages."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and all(isinstance(text, str) for text in value):
        yield from value
    elif isinstance(value, Sequence):
        try:
            messages = read_messages(value, "prompt")
        except UnusableRowError:
            return
        for message in messages:
            if message["role"] == "user":
                yield content_text(message)
