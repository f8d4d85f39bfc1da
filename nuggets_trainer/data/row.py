"""One record of any supported format -> `Row`, or the reason why it is unusable. Knows no dataset and no tokenizer."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]

SEPARATOR = "\n\n"  # between the pieces of a row, and between candidate and anchor, in plain text
ASSISTANT_ROLES = ("assistant", "gpt")  # ShareGPT's name: TRL renames the keys of a message, never its role
SYSTEM_ROLES = ("system", "developer")  # OpenAI's newer name for it
CHATML_KEYS = {"from": "role", "value": "content"}  # as TRL's `maybe_convert_to_chatml`


@dataclass(frozen=True)
class Row:
    """One instruction row, whatever its columns were.

    Attributes:
        prompt: text, or a list of messages; empty text where the whole row is the completion.
        completion: text, or a list of messages.
        separator: what stands between prompt and completion when they are joined as plain text: nothing in TRL's own
            columns (TRL trains on `prompt + completion`), a blank line in Alpaca columns.
        alpaca: `(instruction, input)`, stripped, of a row with Alpaca columns.
        tools: JSON schemas that a conversation is rendered with.
        template_kwargs: options that its chat template is rendered with.
        tokens: `(ids, positions of the scored ones)` of a row that is tokenized already; its texts are empty.
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
        """Characters (token ids, where it is tokenized), to tell long rows from short ones."""
        if self.tokens is not None:
            return len(self.tokens[0])
        return len(joined_text(self.prompt)) + len(joined_text(self.completion))

    @property
    def key(self) -> str:
        """Content hash, 32 hex digits: equal for two rows if and only if all their fields are."""
        text = [_said(part) for part in (self.prompt, self.completion)]
        content: list[Any] = [self.prompt, self.separator, self.completion, self.alpaca]
        # What follows enters only where it is set: stores of rows without it keep their keys. Its own order of keys
        # counts, because a chat template writes JSON in it.
        if self.tools is not None or self.template_kwargs is not None:
            content.append(_as_written([self.tools, self.template_kwargs]))
        if calls := self._tool_calls():
            content.append(_as_written(calls))
        if self.tokens is not None:
            content.append(self.tokens)
        return _digest(text if self.tokens is None else self.tokens[0]) + _digest(content)

    @property
    def text_key(self) -> str:
        """Hash of what is said, 16 hex digits: equal for rows with the same text and tool calls, whatever the columns.

        White space does not count: where a text is split into prompt and completion, it may stand on either side.
        """
        if self.tokens is not None:
            return _digest(self.tokens[0])
        text = "".join((joined_text(self.prompt) + joined_text(self.completion)).split())
        return _digest([text, self._tool_calls()])

    def without_eos(self, eos_token: str) -> Row:
        """Return the row as it was before TRL wrote EOS at the end of its text; messages have none.

        Raises:
            UnusableRowError: if nothing else is there.
        """
        if not isinstance(self.completion, str) or not self.completion.endswith(eos_token):
            return self
        completion = self.completion.removesuffix(eos_token)
        _text(completion, "completion")
        return dataclasses.replace(self, completion=completion)

    def _tool_calls(self) -> list[Any]:
        messages = [message for part in (self.prompt, self.completion) if isinstance(part, list) for message in part]
        return [message["tool_calls"] for message in messages if message.get("tool_calls")]


class UnusableRowError(ValueError):
    """A row that cannot be a candidate or an anchor; its message is the reason, e.g. `empty_completion`."""


def joined_text(part: str | list[Message]) -> str:
    """Return a prompt or completion as text: contents of messages are joined by blank lines."""
    return part if isinstance(part, str) else SEPARATOR.join(content_text(message) for message in part)


def content_text(message: Message) -> str:
    """Return the content of a message as text: that of parts follows one another, a tool call has none."""
    content = message.get("content", "")
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def read_row(
    record: dict[str, Any], row_format: str, *, text_field: str = "text", completion_only: bool = False
) -> Row:
    """Read one record of a dataset.

    Args:
        record: one row.
        row_format: a key of `pool.FORMATS`.
        text_field: the column of the format `text`.
        completion_only: whether a `completion_mask` beside `input_ids` counts.

    Raises:
        UnusableRowError: with the reason, where it is unusable.
    """
    if row_format == "alpaca":
        return _alpaca_row(record)
    if row_format == "text":
        _text(record[text_field], "completion")
        return Row("", record[text_field])  # taken as it is
    if row_format == "tokenized":
        return _tokenized_row(record, completion_only)
    if row_format == "prompt_completion":
        return _prompt_completion_row(record)
    return _messages_row(record, record["messages" if row_format == "messages" else "conversations"])


def formatted_row(text: Any, text_without_response: Any) -> Row:
    """Split what a `formatting_func` wrote into what it writes without the response too, and the rest.

    Example:
        >>> row = formatted_row("Q: red? A: one", "Q: red? A: ")
        >>> row.prompt, row.completion
        ('Q: red? A: ', 'one')
    """
    _text(text, "completion")
    _text(text_without_response, "prompt", may_be_empty=True)
    alike = (letter == other for letter, other in zip(text, text_without_response, strict=False))
    length = len(list(itertools.takewhile(bool, alike)))
    _text(text[length:], "completion")
    return Row(text[:length], text[length:])


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)  # messages may hold dates
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _as_written(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, default=str)


def _said(part: str | list[Message]) -> Any:
    """Return what tells a part from one with another text: its text, or the calls of messages that have none."""
    text = joined_text(part).strip()
    if text or isinstance(part, str):
        return text
    return [message["tool_calls"] for message in part if "tool_calls" in message] or text


def _alpaca_row(record: dict[str, Any]) -> Row:
    instruction = _text(record["instruction"], "prompt")
    extra = record.get("input")
    extra = "" if extra is None else _text(extra, "prompt", may_be_empty=True)
    completion = _text(record["output"], "completion")
    prompt = f"{instruction}{SEPARATOR}{extra}" if extra else instruction
    return Row(prompt, completion, separator=SEPARATOR, alpaca=(instruction, extra))


def _prompt_completion_row(record: dict[str, Any]) -> Row:
    prompt, completion = record["prompt"], record["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        return Row(_messages(prompt, "prompt"), _messages(completion, "completion"), **_rendering(record))
    _text(prompt, "prompt")
    _text(completion, "completion")
    return Row(prompt, completion)  # taken as they are: TRL trains on this very text


def _messages_row(record: dict[str, Any], messages: Any) -> Row:
    messages = _messages(messages, "prompt")
    if messages[-1].get("role") not in ASSISTANT_ROLES:
        raise UnusableRowError("last_message_not_assistant")
    return Row(_messages(messages[:-1], "prompt"), _messages(messages[-1:], "completion"), **_rendering(record))


def _tokenized_row(record: dict[str, Any], completion_only: bool) -> Row:
    """Score what TRL puts loss on: `labels` where there are some, else what the masks let through.

    The first token has no context: it is never scored. Padding (`attention_mask` 0) is left out.
    """
    ids = record["input_ids"]
    if not isinstance(ids, list) or not all(isinstance(token, int) for token in ids):
        raise UnusableRowError("input_ids_not_token_ids")
    has_labels = record.get("labels") is not None
    mask_names = ["completion_mask", "assistant_masks"] if completion_only else ["assistant_masks"]
    names, left_out = (["labels"], -100) if has_labels else (mask_names, 0)
    masks = [record[name] for name in names if record.get(name) is not None]
    shown = record.get("attention_mask")
    shown = [1] * len(ids) if shown is None else shown
    if any(not isinstance(mask, list) or len(mask) != len(ids) for mask in [*masks, shown]):
        raise UnusableRowError("mask_not_as_long_as_input_ids")
    kept = [p for p in range(len(ids)) if shown[p]]
    scored = tuple(k for k, p in enumerate(kept) if k and all(mask[p] != left_out for mask in masks))
    if not scored:
        raise UnusableRowError("empty_completion")
    return Row("", "", tokens=(tuple(ids[p] for p in kept), scored))


def _text(value: Any, part: str, may_be_empty: bool = False) -> str:
    if not isinstance(value, str):
        raise UnusableRowError(f"{part}_not_text")
    if not value.strip() and not may_be_empty:
        raise UnusableRowError(f"empty_{part}")
    return value.strip()


def _messages(value: Any, part: str) -> list[Message]:
    """Give messages as they are rendered, ShareGPT's keys renamed; refuse empty or malformed ones.

    Keys with null, which Arrow adds to messages of different shape, are dropped; those inside of tool calls stay.
    Both is what transformers does when TRL renders a row.
    """
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise UnusableRowError(f"{part}_not_messages")
    messages = [
        {CHATML_KEYS.get(key, key): item for key, item in message.items() if item is not None} for message in value
    ]
    for message in messages:
        _check_message(message, part)
    spoken = [message for message in messages if message["role"] not in SYSTEM_ROLES]
    if not any(content_text(message).strip() or message.get("tool_calls") for message in spoken):
        raise UnusableRowError(f"empty_{part}")
    return messages


def _check_message(message: Message, part: str) -> None:
    content = message.get("content", "")
    parts = content if isinstance(content, list) else []
    if any(isinstance(piece, dict) and piece.get("type") not in ("text", None) for piece in parts):
        raise UnusableRowError("not_text")
    texts = [piece.get("text") if isinstance(piece, dict) else None for piece in parts]
    if not isinstance(content, (str, list)) or not all(isinstance(text, str) for text in texts):
        raise UnusableRowError(f"{part}_not_text")
    if not isinstance(message.get("role"), str):
        raise UnusableRowError(f"{part}_not_text")


def _rendering(record: dict[str, Any]) -> dict[str, Any]:
    """Tools and options of the chat template that TRL renders this conversation with."""
    tools, kwargs = record.get("tools"), record.get("chat_template_kwargs", {})
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except json.JSONDecodeError as error:
            raise UnusableRowError("tools_not_json") from error
    if tools is not None and not isinstance(tools, list):
        raise UnusableRowError("tools_not_a_list")
    if not isinstance(kwargs, dict):  # null where other rows have some; TRL fails on it
        raise UnusableRowError("chat_template_kwargs_not_a_dict")
    return {"tools": tools, "template_kwargs": kwargs or None}
