"""`Row`: one instruction row, its text, and the hashes that tell it from other rows."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Message = dict[str, Any]

SEPARATOR = "\n\n"  # between the pieces of a row, and between candidate and anchor, in plain text
SYSTEM_ROLES = ("system", "developer")  # OpenAI's newer name for it
# Thai, Lao, Burmese, Khmer, Japanese and Chinese put no spaces between words: each of their characters is a word.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, default=str)  # messages may hold dates
_escaped = json.encoder.encode_basestring  # how the encoder writes a text
_WHITE_SPACE = dict.fromkeys(code for code in range(128) if chr(code).isspace())


@dataclass(frozen=True)
class Row:
    """One instruction row, whatever its columns were.

    Attributes:
        prompt: text, or a list of messages; "" if the whole row is the completion.
        completion: text, or a list of messages.
        separator: text between prompt and completion if they are joined as plain text: "" for TRL's own columns (TRL
            trains on `prompt + completion`), a blank line for Alpaca columns.
        alpaca: `(instruction, input)`, stripped, of a row with Alpaca columns; None for other rows.
        tools: JSON schemas that a conversation is rendered with.
        template_kwargs: options that the chat template of a conversation is rendered with.
        tokens: `(token ids, positions of the scored ones)` of a row that is tokenized already, whose texts are empty;
            None for other rows.
    """

    prompt: str | list[Message]
    completion: str | list[Message]
    separator: str = ""
    alpaca: tuple[str, str] | None = None
    tools: list[Any] | None = None
    template_kwargs: dict[str, Any] | None = None
    tokens: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    @property
    def is_conversational(self) -> bool:
        """Whether prompt and completion are lists of messages."""
        return isinstance(self.prompt, list)

    @property
    def size(self) -> int:
        """Number of characters (of token ids if the row is tokenized), to tell long rows from short ones."""
        if self.tokens is not None:
            return len(self.tokens[0])
        return len(joined_text(self.prompt)) + len(joined_text(self.completion))

    @property
    def key(self) -> str:
        """Content hash, 32 hex digits: equal for two rows if and only if all their fields are equal."""
        content: list[Any] = [self.prompt, self.separator, self.completion, self.alpaca]
        # The other fields enter the hash only if they are set: stores that were written before these fields existed
        # keep their keys. Their own order of keys counts, because a chat template writes JSON in that order.
        if self.tools is not None or self.template_kwargs is not None:
            content.append(_json_as_written([self.tools, self.template_kwargs]))
        calls = self._tool_calls()
        if calls:
            content.append(_json_as_written(calls))
        if self.tokens is not None:
            content.append(self.tokens)
            return _digest(self.tokens[0]) + _digest(content)
        text = [_text_or_calls(self.prompt), _text_or_calls(self.completion)]
        return _digest(text) + _digest(content)

    @property
    def text_key(self) -> str:
        """Hash of the text and the tool calls, 16 hex digits: equal for rows that say the same in other columns.

        White space does not count: it may stand on either side of the place where a text is split into prompt and
        completion.
        """
        if self.tokens is not None:
            return _digest(self.tokens[0])
        text = _without_white_space(joined_text(self.prompt) + joined_text(self.completion))
        return _digest([text, self._tool_calls()])

    def without_eos(self, eos_token: str) -> Row:
        """Remove the EOS that TRL wrote at the end of the completion's text; messages have none.

        Raises:
            UnusableRowError: if nothing else is left.
        """
        if not isinstance(self.completion, str) or not self.completion.endswith(eos_token):
            return self
        completion = self.completion.removesuffix(eos_token)
        check_text(completion, "completion")
        return dataclasses.replace(self, completion=completion)

    def _tool_calls(self) -> list[Any]:
        """Collect the tool calls of all messages, one entry per message that has some."""
        calls = []
        for part in (self.prompt, self.completion):
            if isinstance(part, list):
                calls += [message["tool_calls"] for message in part if message.get("tool_calls")]
        return calls


class UnusableRowError(ValueError):
    """A row that cannot be a candidate or an anchor; its message is the reason, e.g. `empty_completion`."""


def joined_text(part: str | list[Message]) -> str:
    """Return a prompt or completion as text: the contents of messages are joined by blank lines."""
    if isinstance(part, str):
        return part
    return SEPARATOR.join(content_text(message) for message in part)


def content_text(message: Message) -> str:
    """Return the content of a message as text: parts are joined without a separator, a bare tool call gives ""."""
    content = message.get("content", "")
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content)


def check_text(value: Any, part: str, may_be_empty: bool = False) -> None:
    """Raise `UnusableRowError` if a prompt or completion is not text, or has nothing but white space.

    Args:
        value: anything.
        part: name of the part in the reason, `prompt` or `completion`.
        may_be_empty: whether text without content is accepted.
    """
    if not isinstance(value, str):
        raise UnusableRowError(f"{part}_not_text")
    if not value.strip() and not may_be_empty:
        raise UnusableRowError(f"empty_{part}")


def hash_of_keys(keys: Iterable[str]) -> str:
    """Return one hash of many, 32 hex digits; their order counts."""
    return hashlib.sha256("".join(keys).encode()).hexdigest()[:32]


def first_of_equal(keys: Sequence[str]) -> dict[int, int]:
    """Return the pool index of the first row of the same content, by that of each later one.

    Args:
        keys: content hash of each row of a pool; "" for a row that cannot be read, which equals no other.
    """
    first: dict[str, int] = {}
    found: dict[int, int] = {}
    for i, key in enumerate(keys):
        if key and first.setdefault(key, i) != i:
            found[i] = first[key]
    return found


class TextKeys(Mapping[str, str]):
    """Hash of a row's text by the row's content hash, in 16 bytes a row; a dict of texts takes 120.

    Args:
        keys: content hash of each row of a pool; "" for a row that cannot be read.
        texts: `Row.text_key` of each row as a number, `(n,)`.
    """

    def __init__(self, keys: Sequence[str], texts: npt.NDArray[np.uint64]) -> None:
        self._keys = keys
        numbers = np.fromiter((int(key[16:] or "0", 16) for key in keys), dtype=np.uint64, count=len(keys))
        order = np.argsort(numbers, kind="stable")
        self._numbers, self._texts = numbers[order], texts[order]

    def __getitem__(self, key: str) -> str:
        number = np.uint64(int(key[16:] or "0", 16))
        place = int(np.searchsorted(self._numbers, number))
        if not key or place == len(self._numbers) or self._numbers[place] != number:
            raise KeyError(key)
        return f"{self._texts[place]:016x}"

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(filter(None, self._keys)))

    def __len__(self) -> int:
        return len(set(filter(None, self._keys)))


def _digest(content: Any) -> str:
    return hashlib.sha256(_as_json(content).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _as_json(content: Any) -> str:
    """Return what `_ENCODER` writes; for texts it takes three times as long, since each call sets it up."""
    if isinstance(content, str):
        return _escaped(content)
    if content is None:
        return "null"
    if isinstance(content, (list, tuple)) and not (content and isinstance(content[0], int)):  # not for token ids
        return f"[{', '.join(map(_as_json, content))}]"
    return _ENCODER.encode(content)


def _without_white_space(text: str) -> str:
    if text.isascii():
        return text.translate(_WHITE_SPACE)
    return "".join(text.split())


def _json_as_written(content: Any) -> str:
    """Return JSON whose keys stand in the order of the content."""
    return json.dumps(content, ensure_ascii=False, default=str)


def _text_or_calls(part: str | list[Message]) -> Any:
    """Return the text of a part; if it has none, the tool calls of its messages, which then tell it from others."""
    text = joined_text(part).strip()
    if text or isinstance(part, str):
        return text
    calls = [message["tool_calls"] for message in part if "tool_calls" in message]
    return calls or text
