"""A row -> copies of it that are worth less as an example: words shuffled, or the completion of another row."""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from nuggets_trainer.data.row import Message, Row, joined_text

_WORDS_AND_SPACES = re.compile(r"\s+|\S+")


def shuffled_completion(row: Row) -> Row | None:
    """Put the words of the completion into another order; white space stays where it is.

    In a row that is tokenized already, the scored token ids change places, except for the last one, which is most
    often EOS.

    Returns:
        The copy, always the same for the same row; None if fewer than two words differ.

    Example:
        >>> shuffled = shuffled_completion(Row("Say it.", "one two"))
        >>> shuffled.prompt, shuffled.completion
        ('Say it.', 'two one')
    """
    generator = np.random.default_rng(int(row.key, 16))
    if row.tokens is not None:
        return _with_shuffled_tokens(row, generator)
    if isinstance(row.completion, str):
        text = _shuffled_text(row.completion, generator)
        if text is None:
            return None
        return dataclasses.replace(row, completion=text)
    messages = []
    has_changed = False
    for message in row.completion:
        shuffled = _shuffled_message(message, generator)
        has_changed |= shuffled is not None
        messages.append(shuffled or message)
    if not has_changed:
        return None
    return dataclasses.replace(row, completion=messages)


def mismatched_completion(row: Row, donor: Row) -> Row | None:
    """Answer the prompt of one row with the completion of another.

    Args:
        row: row whose prompt is kept.
        donor: row whose completion is taken.

    Returns:
        The copy; None if the row has no prompt, or if the two completions are equal.
    """
    if row.tokens is not None and donor.tokens is not None:
        ids, scored = row.tokens
        donor_ids, donor_scored = donor.tokens
        start, donor_start = scored[0], donor_scored[0]
        # With fewer than two tokens before the completion there is at most BOS, and no prompt.
        if start < 2 or ids[start:] == donor_ids[donor_start:]:
            return None
        moved = tuple(position - donor_start + start for position in donor_scored)
        return dataclasses.replace(row, tokens=(ids[:start] + donor_ids[donor_start:], moved))
    completion = donor.completion
    if row.is_conversational and isinstance(completion, str):  # Alpaca rows are text, or messages if they have turns
        completion = [{"role": "assistant", "content": completion}]
    elif isinstance(row.completion, str):
        completion = joined_text(completion)
    if not row.prompt or row.completion == completion:
        return None
    return dataclasses.replace(row, completion=completion)


def _with_shuffled_tokens(row: Row, generator: np.random.Generator) -> Row | None:
    assert row.tokens is not None
    ids, scored = row.tokens
    order = _other_order([str(ids[position]) for position in scored[:-1]], generator)
    if order is None:
        return None
    changed = list(ids)
    for place, source in enumerate(order):
        changed[scored[place]] = ids[scored[source]]
    return dataclasses.replace(row, tokens=(tuple(changed), scored))


def _shuffled_message(message: Message, generator: np.random.Generator) -> Message | None:
    """Shuffle the words of each text of a message; None if no text has another order."""
    content = message.get("content", "")
    if isinstance(content, str):
        text = _shuffled_text(content, generator)
        if text is None:
            return None
        return {**message, "content": text}
    parts = []
    has_changed = False
    for part in content:
        text = _shuffled_text(part["text"], generator)
        has_changed |= text is not None
        parts.append(part if text is None else {**part, "text": text})
    if not has_changed:
        return None
    return {**message, "content": parts}


def _shuffled_text(text: str, generator: np.random.Generator) -> str | None:
    """Shuffle the words of a text; None if there is no other order."""
    pieces = _WORDS_AND_SPACES.findall(text)
    places = [place for place, piece in enumerate(pieces) if not piece.isspace()]
    order = _other_order([pieces[place] for place in places], generator)
    if order is None:
        return None
    shuffled = list(pieces)
    for place, source in zip(places, order, strict=True):
        shuffled[place] = pieces[places[source]]
    return "".join(shuffled)


def _other_order(words: list[str], generator: np.random.Generator) -> list[int] | None:
    """Draw an order that reads differently, or return None if there is none."""
    if len(set(words)) < 2:
        return None
    while True:
        order: list[int] = generator.permutation(len(words)).tolist()
        if [words[place] for place in order] != words:
            return order
