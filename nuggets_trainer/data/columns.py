"""A dataset with columns of any name -> the same rows under the names that TRL and this package read.

The rows are renamed before anything else reads them, so that they are scored, trained on and stored as rows that had
these names from the beginning. Values that can only mean one thing are changed too, without a mapping: messages that
are JSON text, a text beside messages, and whole numbers where a text is expected.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

from nuggets_trainer.config.column_mapping import ColumnMapping
from nuggets_trainer.data.dataset import FEW_ROWS, hidden_dataset_bars
from nuggets_trainer.data.formats import FORMATS, fitting_formats
from nuggets_trainer.data.standard_messages import are_text_and_messages, holds_text, with_standard_messages

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

TEXTS = {
    "prompt_completion": ("prompt", "completion"),
    "alpaca": ("instruction", "input", "output"),
    "text": ("text",),
}


def map_columns(
    dataset: Any, mapping: ColumnMapping | None, name: str, is_pool: bool = True, option: str = "columns"
) -> Any:
    """Give the columns of a dataset, and what is inside its messages, their standard names.

    A column that is not there under its own name may have the standard one already, so that rows may be mapped twice;
    of a pool all of them must, because half a mapping is a misspelt one.
    Columns of other formats are removed, because they might be read in place of those that are mapped. All others
    stay.

    Args:
        dataset: rows; what is no `Dataset` comes back as it is, for others to refuse.
        mapping: which column is which; None changes no names.
        name: name of the dataset in errors.
        is_pool: whether each column of the mapping must be there. Anchors and evaluation rows that have none of them,
            or lack one that their format needs, come back as they are.
        option: name of the option that gives the mapping, in errors.

    Returns:
        The dataset with standard names, one row for each row.

    Raises:
        ValueError: if a column of the mapping is not there.
    """
    from datasets import Dataset

    if not isinstance(dataset, Dataset):
        return dataset
    mapping = mapping or implied_mapping(dataset)
    if mapping is None:
        return _with_numbers_as_text(dataset)
    own, missing = _find_columns(dataset.column_names, mapping)
    if is_pool:
        missing = mapping.misspelt(dataset.column_names) or missing
    if is_pool and missing:
        raise _missing_error(mapping, missing, sorted(dataset.column_names), name, option)
    has_standard_names = bool(mapping.columns) and not own
    if not is_pool and (has_standard_names or not set(missing).isdisjoint(mapping.needed)):
        return dataset
    removed = _columns_in_the_way(dataset.column_names, mapping, own)
    if removed:
        logger.info("`%s`: the columns %s are left out, because `columns` names others.", name, ", ".join(removed))
    mapped = dataset.remove_columns(removed)
    if own:
        mapped = mapped.rename_columns({column: standard for standard, column in own.items()})
    mapped = with_standard_messages(mapped, mapping)
    mapped = _with_numbers_as_text(mapped)
    if is_pool:
        _warn_of_a_bare_seam(mapped, mapping, name)
    return mapped


def map_each(datasets: Any, mapping: ColumnMapping | None, name: str) -> Any:
    """Do what `map_columns` does with evaluation rows: one dataset, several by name, or None."""
    if not isinstance(datasets, dict):
        return map_columns(datasets, mapping, name, is_pool=False)
    mapped = {}
    for key, rows in datasets.items():
        mapped[key] = map_columns(rows, mapping, name, is_pool=False)
    return mapped


def implied_mapping(dataset: Dataset) -> ColumnMapping | None:
    """Return the mapping of columns with standard names whose values have a form that TRL does not take.

    The form is JSON text in place of messages, or text in one of prompt and completion and messages in the other. None
    for all other columns.
    """
    fitting = fitting_formats(dataset.column_names)
    if not fitting:
        return None
    features = dataset.features
    if fitting[0] == "messages" and holds_text(features["messages"]):
        return ColumnMapping("messages", {"messages": "messages"})
    if fitting[0] == "sharegpt" and holds_text(features["conversations"]):
        columns = {"messages": "conversations"}
        if "system" in features:
            columns["system"] = "system"
        return ColumnMapping("messages", columns)
    if fitting[0] == "prompt_completion" and are_text_and_messages(features):
        return ColumnMapping("prompt_completion", {"prompt": "prompt", "completion": "completion"})
    return None


def _with_numbers_as_text(dataset: Dataset) -> Dataset:
    """Write whole numbers as text where a text is expected, such as the answers of arithmetic.

    Floats stay, and their rows are dropped: 42 may have become 42.0 on its way here.
    """
    from datasets import Value

    fitting = fitting_formats(dataset.column_names)
    if not fitting or dataset.format["type"] == "custom":
        return dataset
    for column in TEXTS.get(fitting[0], ()):
        dtype = getattr(dataset.features.get(column), "dtype", None)
        if isinstance(dtype, str) and dtype.startswith(("int", "uint")):
            with hidden_dataset_bars(len(dataset) <= FEW_ROWS):
                dataset = dataset.cast_column(column, Value("string"))
    return dataset


def _find_columns(names: list[str], mapping: ColumnMapping) -> tuple[dict[str, str], list[str]]:
    """Return the columns that are there under their own names, by standard name, and those that are not there."""
    own: dict[str, str] = {}
    missing: list[str] = []
    for standard in dict.fromkeys([*mapping.columns, *mapping.needed]):
        column = mapping.columns.get(standard)
        if column is not None and column in names:
            own[standard] = column
        elif standard not in names:
            missing.append(standard)
    return own, missing


def _missing_error(mapping: ColumnMapping, missing: list[str], names: list[str], name: str, option: str) -> ValueError:
    first = missing[0]
    column = mapping.columns.get(first)
    if column is not None:
        return ValueError(
            f"`{option}` has {first}={column}, but `{name}` has no such column. Its columns are {names}. Name the one "
            "that is meant; `nuggets inspect` shows what each holds."
        )
    return ValueError(
        f"`{option}` does not say which column of `{name}` is `{first}`. Its columns are {names}. Add e.g. "
        f"`{first}={names[0]}`."
    )


def _columns_in_the_way(names: list[str], mapping: ColumnMapping, own: dict[str, str]) -> list[str]:
    """Return the columns that would be read as another format, and those whose name is taken by a mapped column."""
    of_formats = set().union(*FORMATS.values())
    removed = []
    for column in names:
        if column in own.values():
            continue
        if column in own or (column in of_formats and column not in mapping.known):
            removed.append(column)
    return removed


def _warn_of_a_bare_seam(dataset: Dataset, mapping: ColumnMapping, name: str) -> None:
    """Say where prompt and completion would touch, because TRL joins its text columns as they are."""
    if mapping.format != "prompt_completion" or len(dataset) == 0:
        return
    first = dataset.with_format(None)[0]
    prompt, completion = first.get("prompt"), first.get("completion")
    if not isinstance(prompt, str) or not isinstance(completion, str) or not prompt or not completion:
        return
    if not prompt[-1].isspace() and not completion[0].isspace():
        _log_bare_seam(name, prompt[-12:], completion[:12], " ".join(_as_alpaca(mapping)))


def _as_alpaca(mapping: ColumnMapping) -> list[str]:
    columns = {"prompt": "prompt", "completion": "completion", **mapping.columns}
    return [f"instruction={columns['prompt']}", f"output={columns['completion']}"]


@functools.cache  # a run reads the same dataset several times; one message is enough
def _log_bare_seam(name: str, prompt: str, completion: str, words: str) -> None:
    logger.warning(
        "`%s`: TRL joins `prompt` and `completion` as they are, here %r and %r without a space. To write them with "
        "the chat template, or with a blank line between them, map `--columns %s`.",
        name,
        prompt,
        completion,
        words,
    )
