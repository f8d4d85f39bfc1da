"""One record of any supported format -> `Row`, or the reason why the record is unusable."""

from __future__ import annotations

import json
from typing import Any

from nuggets_trainer.data.row import (
    SEPARATOR,
    SYSTEM_ROLES,
    Message,
    Row,
    UnusableRowError,
    check_text,
    content_text,
)

ASSISTANT_ROLES = ("assistant", "gpt")  # ShareGPT's name: TRL renames the keys of a message, never its role
CHATML_KEYS = {"from": "role", "value": "content"}  # as in TRL's `maybe_convert_to_chatml`
IGNORED_LABEL = -100  # torch's `ignore_index`: a token without loss


def read_row(
    record: dict[str, Any], row_format: str, *, text_field: str = "text", completion_only: bool = False
) -> Row:
    r"""Read one record of a dataset.

    Args:
        record: values by column.
        row_format: key of `FORMATS` in data/formats.py.
        text_field: column of the format `text`.
        completion_only: whether a `completion_mask` beside `input_ids` counts.

    Raises:
        UnusableRowError: if the record is unusable; the message is the reason.

    Example:
        >>> row = read_row({"instruction": " Add. ", "input": "1 + 1", "output": "2"}, "alpaca")
        >>> row.prompt, row.completion
        ('Add.\n\n1 + 1', '2')
    """
    if row_format == "alpaca":
        return _read_alpaca(record)
    if row_format == "text":
        text = record[text_field]
        check_text(text, "completion")
        return Row("", text)  # not stripped: TRL trains on this very text
    if row_format == "tokenized":
        return _read_tokenized(record, completion_only)
    if row_format == "prompt_completion":
        return _read_prompt_completion(record)
    column = "messages" if row_format == "messages" else "conversations"
    return _read_conversation(record, record[column])


def formatted_row(text: Any, text_without_response: Any) -> Row:
    """Split a text at the place where it begins to differ from the same text without its response.

    Args:
        text: text that a `formatting_func` wrote.
        text_without_response: text that it wrote for the same record with an empty response.

    Raises:
        UnusableRowError: if one is not text, or if nothing is left for the completion.

    Example:
        >>> row = formatted_row("Q: red? A: one", "Q: red? A: ")
        >>> row.prompt, row.completion
        ('Q: red? A: ', 'one')
    """
    check_text(text, "completion")
    check_text(text_without_response, "prompt", may_be_empty=True)
    length = 0
    for character, other in zip(text, text_without_response, strict=False):
        if character != other:
            break
        length += 1
    prompt, completion = text[:length], text[length:]
    check_text(completion, "completion")
    return Row(prompt, completion)


def _read_alpaca(record: dict[str, Any]) -> Row:
    instruction, completion = record["instruction"], record["output"]
    check_text(instruction, "prompt")
    extra = record.get("input")
    if extra is None:
        extra = ""
    check_text(extra, "prompt", may_be_empty=True)
    check_text(completion, "completion")
    instruction, extra = instruction.strip(), extra.strip()
    prompt = f"{instruction}{SEPARATOR}{extra}" if extra else instruction
    return Row(prompt, completion.strip(), separator=SEPARATOR, alpaca=(instruction, extra))


def _read_prompt_completion(record: dict[str, Any]) -> Row:
    prompt, completion = record["prompt"], record["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        return Row(
            _read_messages(prompt, "prompt"),
            _read_messages(completion, "completion"),
            tools=_read_tools(record),
            template_kwargs=_read_template_kwargs(record),
        )
    check_text(prompt, "prompt")
    check_text(completion, "completion")
    return Row(prompt, completion)  # not stripped: TRL trains on this very text


def _read_conversation(record: dict[str, Any], messages: Any) -> Row:
    messages = _read_messages(messages, "prompt")
    if messages[-1].get("role") not in ASSISTANT_ROLES:
        raise UnusableRowError("last_message_not_assistant")
    return Row(
        _read_messages(messages[:-1], "prompt"),
        _read_messages(messages[-1:], "completion"),
        tools=_read_tools(record),
        template_kwargs=_read_template_kwargs(record),
    )


def _read_tokenized(record: dict[str, Any], completion_only: bool) -> Row:
    """Read token ids and which of them are scored: those that TRL puts loss on, except for the first.

    The first token has no context. Padding (`attention_mask` 0) is left out.
    """
    ids = record["input_ids"]
    if not isinstance(ids, list) or not all(isinstance(token, int) for token in ids):
        raise UnusableRowError("input_ids_not_token_ids")
    masks, masked_value = _loss_masks(record, completion_only)
    attention = record.get("attention_mask")
    if attention is None:
        attention = [1] * len(ids)
    for mask in [*masks, attention]:
        if not isinstance(mask, list) or len(mask) != len(ids):
            raise UnusableRowError("mask_not_as_long_as_input_ids")
    kept: list[int] = []
    scored: list[int] = []
    for position, token in enumerate(ids):
        if not attention[position]:
            continue
        has_loss = all(mask[position] != masked_value for mask in masks)
        if has_loss and kept:
            scored.append(len(kept))
        kept.append(token)
    if not scored:
        raise UnusableRowError("empty_completion")
    return Row("", "", tokens=(tuple(kept), tuple(scored)))


def _loss_masks(record: dict[str, Any], completion_only: bool) -> tuple[list[Any], int]:
    """Return the columns that tell which tokens have loss, and the value that means "no loss" in them.

    TRL takes `labels` as they are, and else combines the masks.
    """
    if record.get("labels") is not None:
        return [record["labels"]], IGNORED_LABEL
    masks = []
    if completion_only:
        masks.append(record.get("completion_mask"))
    masks.append(record.get("assistant_masks"))
    return [mask for mask in masks if mask is not None], 0


def _read_messages(value: Any, part: str) -> list[Message]:
    """Return messages as a chat template takes them; refuse empty or malformed ones.

    ShareGPT's keys are renamed. Keys with null, which Arrow adds to messages of different shape, are dropped; those
    inside tool calls stay. transformers does the same when TRL renders a row.
    """
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise UnusableRowError(f"{part}_not_messages")
    messages = []
    for message in value:
        messages.append({CHATML_KEYS.get(key, key): item for key, item in message.items() if item is not None})
        _check_message(messages[-1], part)
    if not any(map(_says_something, messages)):
        raise UnusableRowError(f"empty_{part}")
    return messages


def _says_something(message: Message) -> bool:
    """Whether a message has text or a tool call; a system message alone does not make a prompt."""
    if message["role"] in SYSTEM_ROLES:
        return False
    return bool(content_text(message).strip() or message.get("tool_calls"))


def _check_message(message: Message, part: str) -> None:
    content = message.get("content", "")
    if not isinstance(content, (str, list)):
        raise UnusableRowError(f"{part}_not_text")
    if isinstance(content, list):
        _check_content_parts(content, part)
    if not isinstance(message.get("role"), str):
        raise UnusableRowError(f"{part}_not_text")


def _check_content_parts(content: list[Any], part: str) -> None:
    """Refuse images, audio and video first: that reason says more than `prompt_not_text`."""
    for piece in content:
        if isinstance(piece, dict) and piece.get("type") not in ("text", None):
            raise UnusableRowError("not_text")
    for piece in content:
        if not isinstance(piece, dict) or not isinstance(piece.get("text"), str):
            raise UnusableRowError(f"{part}_not_text")


def _read_tools(record: dict[str, Any]) -> list[Any] | None:
    """Return the tools that TRL renders this conversation with."""
    tools = record.get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except json.JSONDecodeError as error:
            raise UnusableRowError("tools_not_json") from error
    if tools is not None and not isinstance(tools, list):
        raise UnusableRowError("tools_not_a_list")
    return tools


def _read_template_kwargs(record: dict[str, Any]) -> dict[str, Any] | None:
    """Return the options of the chat template that TRL renders this conversation with."""
    options = record.get("chat_template_kwargs", {})
    if not isinstance(options, dict):  # null if only other rows have options: TRL fails on it
        raise UnusableRowError("chat_template_kwargs_not_a_dict")
    return options or None
