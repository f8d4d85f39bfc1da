"""Columns of no known format -> the words of `columns` that would probably name them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

# Names of one kind, in lower case. A guess is made only if a dataset has exactly one column of each.
ASKED = ("instruction", "question", "query", "prompt", "problem", "user", "human", "request", "input", "inputs")
ANSWERED = (
    *("output", "answer", "response", "completion", "solution", "reply", "assistant", "gpt", "target", "targets"),
    "chosen",
)
SAID_BY = ("role", "from", "speaker", "author", "sender")
SAID = ("content", "value", "text", "utterance", "message")
STANDARD_KEYS = (("role", "content"), ("from", "value"))  # read as they are


def guess_columns(column_names: Iterable[str], features: Any = None) -> list[str]:
    """Guess the words of `columns` for a dataset; none if there is more than one way to read it.

    A question and an answer become `instruction` and `output`, which are written with the chat template, or with a
    blank line between them.

    Args:
        column_names: columns of the dataset.
        features: features of the dataset by column; None if they are not known.

    Example:
        >>> guess_columns(["id", "question", "answer"])
        ['instruction=question', 'output=answer']
        >>> guess_columns(["instruction", "input", "response"])
        ['output=response']
        >>> guess_columns(["question", "answer", "response"])
        []
        >>> guess_columns(["User Question", "Model Answer"])
        ['instruction=User Question', 'output=Model Answer']
    """
    names, features = list(column_names), features or {}
    asked, answered = _named(names, ASKED), _named(names, ANSWERED)
    conversations = []
    for name in names:
        if name not in (*asked, *answered) and _are_messages(_message_keys(features.get(name))):
            conversations.append(name)
    inputs = []
    if sorted(map(_words, asked)) == [["input"], ["instruction"]]:  # Alpaca's own pair
        inputs = [f"input={name}" for name in asked if _words(name) == ["input"] and name != "input"]
        asked = [name for name in asked if _words(name) == ["instruction"]]
    if len(answered) == 1 and _holds_conversation(answered[0], asked, features):
        return [f"messages={answered[0]}", *_guess_keys(_message_keys(features[answered[0]]))]
    if len(asked) == 1 and len(answered) == 1:
        return [*_guess_pair(asked[0], answered[0], features), *inputs]
    if not asked and not answered and len(conversations) == 1:
        return [f"messages={conversations[0]}", *_guess_keys(_message_keys(features[conversations[0]]))]
    if len(names) == 1 and getattr(features.get(names[0]), "dtype", None) in ("string", "large_string"):
        return [f"text={names[0]}"]
    return []


def _named(names: Sequence[str], kinds: Sequence[str]) -> list[str]:
    """Return the columns with a name of one kind; if there is none, those whose name ends with such a word."""
    exact = [name for name in names if name.strip().lower() in kinds]
    if exact:
        return exact
    return [name for name in names if _words(name)[-1:] and _words(name)[-1] in kinds]


def _words(name: str) -> list[str]:
    """Return the words of a column's name, in lower case."""
    return re.findall(r"[^\W_]+", name.lower())


def lists_of_text(column_names: Iterable[str], features: Any) -> str | None:
    """Name the first column of questions or answers that holds lists of texts; None if there is none.

    Args:
        column_names: columns of the dataset.
        features: features of the dataset by column; None if they are not known.
    """
    for name in column_names:
        inner = getattr((features or {}).get(name), "feature", None)
        is_named = any(word.removesuffix("s") in (*ASKED, *ANSWERED) for word in _words(name)[-1:])
        if is_named and getattr(inner, "dtype", None) in ("string", "large_string"):
            return name
    return None


def _holds_conversation(answered: str, asked: list[str], features: Any) -> bool:
    """Whether a column has whole conversations: messages, and no other column has those before them."""
    if not _are_messages(_message_keys(features.get(answered))):
        return False
    return not any(_message_keys(features.get(name)) for name in asked)


def _guess_pair(asked: str, answered: str, features: Any) -> list[str]:
    if asked == "prompt" and _message_keys(features.get(asked)):
        return [f"completion={answered}"]
    words = []
    for name, own in (("instruction", asked), ("output", answered)):
        if name != own:
            words.append(f"{name}={own}")
    return words


def _message_keys(feature: Any) -> list[str]:
    """Return the keys of the messages that a column holds; none if it holds something else."""
    inner = getattr(feature, "feature", None)
    if not isinstance(inner, dict):
        return []
    return list(inner)


def _are_messages(keys: list[str]) -> bool:
    """Whether some key says who speaks, and some key what is said."""
    names = {key.lower() for key in keys}
    return not names.isdisjoint(SAID_BY) and not names.isdisjoint(SAID)


def wrapped_rows(column_names: Iterable[str], features: Any) -> str | None:
    """Name the column inside of which the rows stand, as in `{"data": [{"instruction": ...}, ...]}`.

    Args:
        column_names: columns of the dataset.
        features: features of the dataset by column; None if they are not known.

    Returns:
        The only column that holds a list of objects that are no messages, or `train` among several; None if there is
        none.
    """
    found = []
    for name in column_names:
        keys = _message_keys((features or {}).get(name))
        if keys and not _are_messages(keys):
            found.append(name)
    if "train" in found:
        return "train"
    return found[0] if len(found) == 1 else None


def are_rows_by_name(column_names: Iterable[str], features: Any) -> bool:
    """Whether each column holds a whole row, as in `{"id-1": {"instruction": ...}, "id-2": {"instruction": ...}}`."""
    kinds: list[Any] = [(features or {}).get(name) for name in column_names]
    return len(kinds) > 1 and all(isinstance(kind, dict) and kind.keys() == kinds[0].keys() for kind in kinds)


def _guess_keys(keys: list[str]) -> list[str]:
    """Guess which key says who speaks and which says what."""
    if any(set(standard) <= set(keys) for standard in STANDARD_KEYS):
        return []
    words = []
    for name, kinds in (("role", SAID_BY), ("content", SAID)):
        found = [key for key in keys if key.lower() in kinds]
        if len(found) == 1 and found != [name]:
            words.append(f"{name}={found[0]}")
    return words
