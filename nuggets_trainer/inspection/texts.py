"""Rows as they are read, without a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence

from nuggets_trainer.data.pool import Pool
from nuggets_trainer.inspection.facts import LengthFact, RowView, Span
from nuggets_trainer.inspection.lengths import summed_up
from nuggets_trainer.store.shown_rows import display_texts


def text_view(pool: Pool, index: int) -> RowView:
    """Show the prompt and the completion of a row as text; messages with their roles.

    Raises:
        UnusableRowError: if the row cannot be read.
    """
    texts = display_texts(pool[index], _as_numbers)
    spans = []
    for kind, part in (("candidate", "prompt"), ("answer", "completion")):
        if texts[part]:
            spans.append(Span(kind, texts[part], texts[f"{part}_characters"]))
    return RowView(index, None, tuple(spans))


def dropped_view(pool: Pool, index: int, reason: str) -> RowView:
    """Show the columns of a row that is dropped."""
    record = json.dumps(pool.record(index), ensure_ascii=False, default=str)
    return RowView(index, None, (), dropped=reason, record=record)


def character_lengths(pool: Pool) -> tuple[LengthFact, ...]:
    """Sum up the lengths of all rows that can be read."""
    usable = pool.usable_indices()
    return (summed_up("row", pool.sizes[usable].tolist()),) if usable else ()


def _as_numbers(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids))
