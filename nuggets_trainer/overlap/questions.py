"""The questions of a test, from a file, the hub, or the official questions of AlpacaEval and MT-Bench."""

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
# Columns that hold a question, the first that is there. Answers are not looked at.
COLUMNS = ("prompt", "messages", "conversations", "instruction", "question", "turns", "text")


def load_questions(place: RowPlace, mapping: ColumnMapping | None) -> list[str]:
    """Load the questions of a test.

    Args:
        place: `alpaca_eval` or `mt_bench`, a file or directory, or a dataset on the hub.
        mapping: which column is which, as for the pool; None if the columns have standard names.

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
    """Return what the user says in each row; of rows without a prompt, the whole text.

    Args:
        dataset: rows of a test, with or without answers.
        what: what the rows are, for the error.

    Raises:
        ValueError: if no column holds questions.
    """
    names = dataset.column_names
    column = next((name for name in COLUMNS if name in names), None)
    if column is None:
        raise ValueError(
            f"{what} has the columns {sorted(names)}, of which none is known to hold questions. Expected one of "
            f"{', '.join(COLUMNS)}. Say which one it is with `columns`, such as `--columns prompt=query`, or rename "
            "it."
        )
    with_input = column == "instruction" and "input" in names
    questions: list[str] = []
    for record in dataset.select_columns([column, "input"] if with_input else [column]).with_format(None):
        own = list(_texts(record[column]))
        if with_input and isinstance(record["input"], str) and own:
            own = [f"{own[0]}\n\n{record['input']}"]
        questions += own
    if not any(question.strip() for question in questions):
        raise ValueError(f"{what} has no text in its column {column!r}, where its questions should be.")
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
