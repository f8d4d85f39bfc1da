"""A row -> copies of it that are worth less as an example: words shuffled, or the completion of another row.

Knows no tokenizer and no model.
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from nuggets_trainer.data.row import Message, Row

_WORDS_AND_SPACES = re.compile(r"\s+|\S+")


def shuffled_completion(row: Row) -> Row | None:
    """Put the words of the completion into another order; white space stays where it is.

    Of a row that is tokenized already, token ids change places, but for the last one, which is most often EOS.

    Returns:
        The copy, the same for the same row; None where fewer than two words differ.

    Example:
        >>> shuffled_completion(Row("Say it.", "one two"))
        Row(prompt='Say it.', completion='two one', separator='', alpaca=None, tools=None, template_kwargs=None, tokens=None)
    """  # noqa: E501
    generator = np.random.default_rng(int(row.key, 16))
    if row.tokens is not None:
        ids, scored = row.tokens
        order = _other_order([str(ids[position]) for position in scored[:-1]], generator)
        if order is None:
            return None
        changed = list(ids)
        for place, source in enumerate(order):
            changed[scored[place]] = ids[scored[source]]
        return dataclasses.replace(row, tokens=(tuple(changed), scored))
    if isinstance(row.completion, str):
        text = _shuffled(row.completion, generator)
        return None if text is None else dataclasses.replace(row, completion=text)
    messages = [_shuffled_message(message, generator) for message in row.completion]
    if all(message is None for message in messages):
        return None
    kept = [new or old for new, old in zip(messages, row.completion, strict=True)]
    return dataclasses.replace(row, completion=kept)


def mismatched_completion(row: Row, donor: Row) -> Row | None:
    """Answer the prompt of a row with the completion of another one.

    Returns:
        The copy; None where the row has no prompt, or the completions are equal.
    """
    if row.tokens is not None and donor.tokens is not None:
        (ids, scored), (other_ids, other_scored) = row.tokens, donor.tokens
        start, other_start = scored[0], other_scored[0]
        if start < 2 or ids[start:] == other_ids[other_start:]:
            return None  # behind BOS at most: no prompt
        moved = tuple(position - other_start + start for position in other_scored)
        return dataclasses.replace(row, tokens=(ids[:start] + other_ids[other_start:], moved))
    if not row.prompt or row.completion == donor.completion:
        return None
    return dataclasses.replace(row, completion=donor.completion)


def _shuffled_message(message: Message, generator: np.random.Generator) -> Message | None:
    content = message.get("content", "")
    if isinstance(content, str):
        text = _shuffled(content, generator)
        return None if text is None else {**message, "content": text}
    texts = [_shuffled(part["text"], generator) for part in content]
    if all(text is None for text in texts):
        return None
    parts = [part if text is None else {**part, "text": text} for part, text in zip(content, texts, strict=True)]
    return {**message, "content": parts}


def _shuffled(text: str, generator: np.random.Generator) -> str | None:
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
    """Draw an order that reads differently, or None where there is none."""
    if len(set(words)) < 2:
        return None
    while True:
        order: list[int] = generator.permutation(len(words)).tolist()
        if [words[place] for place in order] != words:
            return order
