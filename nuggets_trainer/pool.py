"""Rows of any supported format -> prompt and completion, content hash, reason where a row is unusable.

Knows no tokenizer and no model: what a prompt looks like as text is decided in `prompts.py`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

Message = dict[str, Any]

SEPARATOR = "\n\n"  # between the pieces of a row, and between candidate and anchor, in plain text
FORMATS = {
    "prompt_completion": ("prompt", "completion"),
    "messages": ("messages",),
    "alpaca": ("instruction", "output"),
}
FORMATS_HELP = (
    "`prompt` + `completion` (text, or lists of messages), `messages`, or Alpaca's `instruction` + `output` "
    "(+ optional `input`)"
)


@dataclass(frozen=True)
class Row:
    """One instruction row, whatever its columns were.

    Attributes:
        prompt: text, or a list of messages.
        completion: text, or a list of messages.
        separator: what stands between prompt and completion when they are joined as plain text: nothing in TRL's own
            columns (TRL trains on `prompt + completion`), a blank line in Alpaca columns.
        alpaca: `(instruction, input)`, stripped, of a row with Alpaca columns.
    """

    prompt: str | list[Message]
    completion: str | list[Message]
    separator: str = ""
    alpaca: tuple[str, str] | None = None

    @property
    def is_conversational(self) -> bool:
        """Whether prompt and completion are lists of messages."""
        return isinstance(self.prompt, list)

    @property
    def key(self) -> str:
        """Content hash, 32 hex digits; the first 16 are of the text alone, whatever the columns were.

        Equal for two rows if and only if all their fields are; `same_text` compares the first half.
        """
        text = [joined_text(part).strip() for part in (self.prompt, self.completion)]
        return _digest(text) + _digest([self.prompt, self.separator, self.completion, self.alpaca])


def joined_text(part: str | list[Message]) -> str:
    """Return a prompt or completion as text: contents of messages are joined by blank lines."""
    return part if isinstance(part, str) else SEPARATOR.join(message.get("content", "") for message in part)


def same_text(key: str) -> str:
    """Return the part of a row's key that rows with the same text share, whatever their columns."""
    return key[:16]


class UnusableRowError(ValueError):
    """A row that cannot be a candidate or an anchor; its message is the reason, e.g. `empty_completion`."""


class Pool:
    """The rows of a dataset, read on demand: `pool[i]` is a `Row`, or raises `UnusableRowError` with the reason.

    Args:
        dataset: a `datasets.Dataset` in one of the formats of `FORMATS`.
        name: what to call it in errors (`train_dataset`, `anchors`).

    Raises:
        TypeError: if it is not a `Dataset` (a `DatasetDict`, an `IterableDataset`, ...).
        ValueError: if it is empty or its columns are of no known format.
    """

    def __init__(self, dataset: Dataset, name: str = "train_dataset") -> None:
        self.dataset = check_dataset(dataset, name)
        self.name = name
        self.format = detect_format(dataset.column_names, name)
        self._keys: tuple[list[str], dict[int, str]] | None = None
        _refuse_columns_that_change_prompts(self)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Row:
        return read_row(self.dataset[index], self.format)

    def read_keys(self) -> tuple[list[str], dict[int, str]]:
        """Content hash of each row ("" where unusable), and the reason for each row that is unusable as it stands."""
        if self._keys is None:
            keys, dropped = [], {}
            for i in range(len(self)):
                try:
                    keys.append(self[i].key)
                except UnusableRowError as error:
                    keys.append("")
                    dropped[i] = str(error)
            self._keys = keys, dropped
        return self._keys[0], dict(self._keys[1])

    @property
    def content_hash(self) -> str:
        """Hash of all rows in their order."""
        return hashlib.sha256("".join(self.read_keys()[0]).encode()).hexdigest()[:32]

    @property
    def is_conversational(self) -> bool:
        """Whether the rows are made of messages."""
        from datasets import Value

        return self.format == "messages" or not isinstance(self.dataset.features[FORMATS[self.format][0]], Value)


def anchors_like(anchor_dataset: Dataset, pool: Pool) -> Pool:
    """Read anchors; where their columns are of no known format, the error shows the pool's beside them."""
    try:
        return Pool(anchor_dataset, "anchors")
    except ValueError as error:
        raise ValueError(f"{error} (The pool's columns are {sorted(pool.dataset.column_names)}.)") from error


def read_row(record: dict[str, Any], row_format: str) -> Row:
    """Read one record of a dataset in that format; raise `UnusableRowError` with the reason where it is unusable."""
    if row_format == "alpaca":
        return _alpaca_row(record)
    if row_format == "messages":
        return _messages_row(record["messages"])
    return _prompt_completion_row(record["prompt"], record["completion"])


def _refuse_columns_that_change_prompts(pool: Pool) -> None:
    """TRL renders a row with its own tools and template options; scoring would see another prompt than training."""
    for column in ("tools", "chat_template_kwargs"):
        if pool.is_conversational and column in pool.dataset.column_names and any(pool.dataset[column]):
            raise ValueError(
                f"`{pool.name}` has the column `{column}`, which changes how TRL renders a row and which scoring does "
                f"not know yet. Remove it (`dataset.remove_columns({column!r})`) or render the rows to text first."
            )


def check_dataset(dataset: Any, name: str) -> Any:
    """Return `dataset` if it is a map-style `Dataset` with rows; else raise and say what to pass."""
    from datasets import Dataset, DatasetDict, IterableDataset

    if isinstance(dataset, DatasetDict):
        example = "train" if "train" in dataset or not dataset else sorted(dataset)[0]
        raise TypeError(
            f"`{name}` is a DatasetDict with splits {sorted(dataset)}, expected one split: pass e.g. "
            f"`dataset[{example!r}]`."
        )
    if isinstance(dataset, IterableDataset):
        raise TypeError(
            f"`{name}` is an IterableDataset: candidates are ranked against each other, so their number must be known."
            " Take a bounded number of rows into memory first: `Dataset.from_list(list(dataset.take(n)))`."
        )
    if not isinstance(dataset, Dataset):
        raise TypeError(f"`{name}` must be a datasets.Dataset, got {type(dataset).__name__}.")
    if len(dataset) == 0:
        raise ValueError(f"`{name}` is empty: expected at least one row.")
    return dataset


def detect_format(column_names: list[str], name: str) -> str:
    """Name the format (a key of `FORMATS`) that these columns have; the first that fits.

    Example:
        >>> detect_format(["instruction", "input", "output"], "pool")
        'alpaca'
    """
    for candidate_format, columns in FORMATS.items():
        if set(columns) <= set(column_names):
            return candidate_format
    raise ValueError(
        f"`{name}` has columns {sorted(column_names)}, which is no known format. Expected {FORMATS_HELP}. Rename the "
        "columns (`dataset.rename_columns`) or map the rows to one of these."
    )


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)  # messages may hold dates
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _alpaca_row(record: dict[str, Any]) -> Row:
    instruction = _text(record["instruction"], "prompt")
    extra = record.get("input")
    extra = "" if extra is None else _text(extra, "prompt", may_be_empty=True)
    completion = _text(record["output"], "completion")
    prompt = f"{instruction}{SEPARATOR}{extra}" if extra else instruction
    return Row(prompt, completion, separator=SEPARATOR, alpaca=(instruction, extra))


def _prompt_completion_row(prompt: Any, completion: Any) -> Row:
    if isinstance(prompt, list) and isinstance(completion, list):
        return Row(_messages(prompt, "prompt"), _messages(completion, "completion"))
    _text(prompt, "prompt")
    _text(completion, "completion")
    return Row(prompt, completion)  # taken as they are: TRL trains on this very text


def _messages_row(messages: Any) -> Row:
    messages = _messages(messages, "prompt")
    if messages[-1].get("role") != "assistant":
        raise UnusableRowError("last_message_not_assistant")
    return Row(_messages(messages[:-1], "prompt"), _messages(messages[-1:], "completion"))


def _text(value: Any, part: str, may_be_empty: bool = False) -> str:
    if not isinstance(value, str):
        raise UnusableRowError(f"{part}_not_text")
    if not value.strip() and not may_be_empty:
        raise UnusableRowError(f"empty_{part}")
    return value.strip()


def _messages(value: Any, part: str) -> list[Message]:
    """Drop the null keys that Arrow adds to messages of different shape; refuse empty or malformed ones."""
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise UnusableRowError(f"{part}_not_messages")
    messages = [{k: v for k, v in message.items() if v is not None} for message in value]
    contents = [_message_text(message, part) for message in messages if message.get("role") != "system"]
    if not any(content.strip() for content in contents):
        raise UnusableRowError(f"empty_{part}")
    return messages


def _message_text(message: Message, part: str) -> str:
    content = message.get("content", "")
    if not isinstance(content, str) or not isinstance(message.get("role"), str):
        raise UnusableRowError(f"{part}_not_text")
    return content
