"""rows.parquet holds rows of any format as text."""

from __future__ import annotations

from nuggets_trainer.data.read_row import read_row
from nuggets_trainer.store.shown_rows import _storable, display_texts


def test_a_lone_surrogate_is_stored_as_a_replacement():
    """UTF-8 has none, but a user's `formatting_func` may write one."""
    assert _storable("a\udc80b\U0001f600") == "a\ufffdb\U0001f600"


def test_rows_of_any_format_are_shown_as_text(tokenizer):
    """Messages with their roles, tokens decoded."""

    def shown(record, row_format):
        return display_texts(read_row(record, row_format), lambda ids: tokenizer.decode(ids))

    messages = [{"role": role, "content": text} for role, text in (("system", "S"), ("user", "U"), ("assistant", "A"))]
    row = shown({"messages": messages}, "messages")
    assert (row["prompt"], row["completion"], row["completion_length"]) == ("[system]\nS\n\n[user]\nU", "A", 1)
    ids = tokenizer("one two three")["input_ids"]
    row = shown({"input_ids": ids, "labels": [-100] * (len(ids) - 1) + ids[-1:]}, "tokenized")
    assert row["prompt"] + row["completion"] == tokenizer.decode(ids) and row["completion_length"] == 1
