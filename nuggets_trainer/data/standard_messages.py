"""The messages of a dataset -> the same messages with standard keys and roles, and the system message first."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from nuggets_trainer.config.column_mapping import ColumnMapping
from nuggets_trainer.data.dataset import FEW_ROWS, hidden_dataset_bars
from nuggets_trainer.data.row import SYSTEM_ROLES, Message

if TYPE_CHECKING:
    from datasets import Dataset

CONVERSATIONS = {"prompt_completion": ("prompt", "completion"), "messages": ("messages",)}
SIDES = {"prompt": "user", "completion": "assistant"}  # who says a text, if a system message makes it a turn


def with_standard_messages(dataset: Dataset, mapping: ColumnMapping) -> Dataset:
    """Give keys and roles of messages their standard names, and make a column `system` the first message."""
    from datasets import Features

    features = dict(dataset.features)
    columns = CONVERSATIONS.get(mapping.format, ())
    if not columns:
        return dataset
    first = columns[0]
    has_system = "system" in mapping.columns and "system" in features
    is_json = first == "messages" and holds_text(features[first])
    are_turns = has_system or (first == "prompt" and are_text_and_messages(features))
    if not (are_turns or is_json or mapping.keys or mapping.roles):
        return dataset
    for column in columns:
        features[column] = _message_feature(features[column], mapping, are_turns)
    inside = _keys(features[first])
    as_parts = "content" in inside and not holds_text(inside["content"])

    def convert(record: dict[str, Any]) -> dict[str, Any]:
        changed: dict[str, Any] = {}
        for column in columns:
            value = _standard(record[column], mapping)
            if are_turns and column in SIDES and not isinstance(value, list):
                value = [_turn(SIDES[column], value)]
            changed[column] = value
        if has_system:
            changed[first] = _with_system(record["system"], changed[first], as_parts, "from" in inside)
        return changed

    # Records hold lists, whatever tensors the dataset is set to return. A user's own transform stays.
    if dataset.format["type"] != "custom":
        dataset = dataset.with_format(None)
    with hidden_dataset_bars(len(dataset) <= FEW_ROWS):
        return dataset.map(convert, features=Features(features))


def are_text_and_messages(features: Any) -> bool:
    """Whether one of prompt and completion is text and the other a list of messages."""
    kinds = [holds_text(features[column]) for column in ("prompt", "completion")]
    lists = [isinstance(getattr(features[column], "feature", None), dict) for column in ("prompt", "completion")]
    return any(kinds) and any(lists)


def holds_text(feature: Any) -> bool:
    """Whether a column, or a key of messages, holds text."""
    return getattr(feature, "dtype", None) in ("string", "large_string")


def _standard(value: Any, mapping: ColumnMapping) -> Any:
    """Return messages with standard keys and roles; what is no list of messages stays, to be dropped with a reason."""
    if isinstance(value, str) and mapping.format == "messages":
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return None
        if not isinstance(value, list):
            return None
    if not isinstance(value, list):
        return value
    return [_standard_message(message, mapping) for message in value]


def _standard_message(message: Any, mapping: ColumnMapping) -> Any:
    if not isinstance(message, dict):
        return message
    renamed: Message = {}
    for key, value in message.items():
        standard = mapping.keys.get(key)
        if standard is not None:
            renamed[standard] = value
        elif not mapping.takes_key(key, message):
            renamed[key] = value
    for key in ("role", "from"):
        if isinstance(renamed.get(key), str):
            renamed[key] = mapping.roles.get(renamed[key], renamed[key])
    return renamed


def _turn(role: str, text: Any) -> Message:
    """Return a text as a message; what is no text has no content, so that the row is dropped."""
    if not isinstance(text, str):
        text = None
    return {"role": role, "content": text}


def _with_system(system: Any, messages: Any, as_parts: bool, is_sharegpt: bool) -> Any:
    """Put a system message first, with the keys of the others, unless there is one, or nothing to say."""
    if not isinstance(messages, list) or not isinstance(system, str) or not system.strip():
        return messages
    if messages and messages[0].get("from" if is_sharegpt else "role") in SYSTEM_ROLES:
        return messages
    if is_sharegpt:
        return [{"from": "system", "value": system.strip()}, *messages]
    first: Message = {"role": "system", "content": system.strip()}
    if as_parts:
        first["content"] = [{"type": "text", "text": system.strip()}]
    return [first, *messages]


def _message_feature(feature: Any, mapping: ColumnMapping, are_turns: bool) -> Any:
    """Return the feature of a column after its messages have standard names."""
    from datasets import Json, List, Value

    if _keys(feature):
        return List(_standard_message(_keys(feature), mapping))
    if mapping.format == "messages" and holds_text(feature):
        return List(Json())  # JSON text may hold messages of any shape
    if mapping.format == "messages" or not are_turns:
        return feature
    return List({"role": Value("string"), "content": Value("string")})


def _keys(feature: Any) -> dict[str, Any]:
    """Return the features of the keys of messages; none for a column of something else."""
    inner = getattr(feature, "feature", None)
    return inner if isinstance(inner, dict) else {}
