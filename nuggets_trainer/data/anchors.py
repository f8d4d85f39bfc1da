"""Anchors that are read as the pool is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nuggets_trainer.data.dataset import check_dataset
from nuggets_trainer.data.formats import fitting_formats
from nuggets_trainer.data.pool import Pool

if TYPE_CHECKING:
    from datasets import Dataset


def anchors_like(anchor_dataset: Dataset, pool: Pool) -> Pool:
    """Read anchors as the pool is read.

    The pool's `formatting_func` writes them if they have all columns of the pool. Else they are read in the format
    that their columns have. If several fit, the pool's format comes first, then one with a prompt if the pool has
    prompts.

    Raises:
        TypeError, ValueError: as for a pool; the error shows the pool's columns too.
    """
    try:
        columns = check_dataset(anchor_dataset, "anchors").column_names
        if pool.formatting_func is not None and set(columns) >= set(pool.dataset.column_names):
            return Pool(anchor_dataset, "anchors", pool.formatting_func, pool.response_field)
        text_field = pool.text_field if pool.text_field in columns else "text"
        return Pool(
            anchor_dataset,
            "anchors",
            text_field=text_field,
            completion_only_loss=pool.completion_only,
            row_format=_anchor_format(fitting_formats(columns, text_field), pool),
            eos_token=pool.eos_token,
        )
    except ValueError as error:
        raise ValueError(f"{error} (The pool's columns are {sorted(pool.dataset.column_names)}.)") from error


def shared_rows(anchors: Pool, others: Pool) -> list[tuple[int, int]]:
    """Find rows that have the same text in both.

    Args:
        anchors: anchors.
        others: rows that they should have nothing in common with.

    Returns:
        Row number of the anchor and of the first such row among the others, for each anchor that is there.
    """
    keys, unreadable = others.read_keys()
    first: dict[str, int] = {}
    for i, key in enumerate(keys):
        if i not in unreadable:
            first.setdefault(others.texts[key], i)
    own_keys, unreadable = anchors.read_keys()
    shared = []
    for j, key in enumerate(own_keys):
        if j not in unreadable and anchors.texts[key] in first:
            shared.append((j, first[anchors.texts[key]]))
    return shared


def _anchor_format(fitting: list[str], pool: Pool) -> str | None:
    """Choose one of several formats; None if none fits."""

    def rank(row_format: str) -> tuple[bool, ...]:
        lacks_prompt = row_format == "text" and not pool.is_text_only
        return row_format != pool.format, row_format == "tokenized", lacks_prompt

    return min(fitting, key=rank, default=None)
