"""One record of any supported format -> `Row`, or the reason why the record is unusable."""

from __future__ import annotations

import json
from typing import Any

from nuggets_trainer.data.messages import KEPT_ROLES, is_sharegpt, raw_roles, read_messages
from nuggets_trainer.data.row import SEPARATOR, SYSTEM_ROLES, Message, Row, UnusableRowError, check_text, joined_text

CONVERSATION_COLUMNS = {
    "prompt_completion": ("prompt", "completion"),
    "messages": ("messages",),
    "sharegpt": ("conversations",),
}
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
    is_from_sharegpt = row_format == "sharegpt"
    column = "conversations" if is_from_sharegpt else "messages"
    return _read_conversation(record, record[column], is_from_sharegpt)


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


def roles_of(record: dict[str, Any], row_format: str) -> list[str]:
    """Return the roles of a record's messages as its columns hold them."""
    roles: list[str] = []
    for column in CONVERSATION_COLUMNS.get(row_format, ()):
        roles += raw_roles(record[column])
    return roles


def differs_in_trl(record: dict[str, Any], row_format: str) -> bool:
    """Whether TRL would render a record with other messages than `read_row` reads: it keeps ShareGPT's roles.

    Args:
        record: values by column.
        row_format: key of `FORMATS` in data/formats.py, of rows that TRL takes.
    """
    if row_format not in CONVERSATION_COLUMNS:
        return False
    tools = record.get("tools")
    if isinstance(tools, str) and not tools.strip():
        return True  # TRL fails on it
    if row_format == "sharegpt" and not _is_blank(record.get("system")):
        return True
    for column in CONVERSATION_COLUMNS[row_format]:
        if column == "conversations":  # TRL renames the keys of this column itself
            is_renamed = not set(raw_roles(record[column])) <= set(KEPT_ROLES)
        else:
            is_renamed = is_sharegpt(record[column])
        if is_renamed:
            return True
    return False


def _read_alpaca(record: dict[str, Any]) -> Row:
    instruction, completion = record["instruction"], record["output"]
    check_text(instruction, "prompt")
    extra = record.get("input")
    if extra is None:
        extra = ""
    check_text(extra, "prompt", may_be_empty=True)
    check_text(completion, "completion")
    instruction, extra, completion = instruction.strip(), extra.strip(), completion.strip()
    prompt = f"{instruction}{SEPARATOR}{extra}" if extra else instruction
    context = [*_system_message(record), *_read_history(record)]
    options: dict[str, Any] = {"tools": _read_tools(record), "template_kwargs": _read_template_kwargs(record)}
    if not context:
        return Row(prompt, completion, separator=SEPARATOR, alpaca=(instruction, extra), **options)
    # The paper's template has one place for all that comes before the input.
    instruction = joined_text([*context, {"role": "user", "content": instruction}])
    return Row(
        [*context, {"role": "user", "content": prompt}],
        [{"role": "assistant", "content": completion}],
        alpaca=(instruction, extra),
        **options,
    )


def _system_message(record: dict[str, Any]) -> list[Message]:
    """Return the message of LLaMA-Factory's column `system`; none if there is no such text."""
    system = record.get("system")
    if _is_blank(system):
        return []
    if not isinstance(system, str):
        raise UnusableRowError("system_not_text")
    return [{"role": "system", "content": system.strip()}]


def _read_history(record: dict[str, Any]) -> list[Message]:
    """Return the turns of LLaMA-Factory's column `history`: pairs of an instruction and its answer, or JSON text."""
    history = record.get("history")
    if _is_blank(history):
        return []
    if isinstance(history, str):
        try:
            history = json.loads(history)
        except json.JSONDecodeError as error:
            raise UnusableRowError("history_not_pairs") from error
    if not isinstance(history, list):
        raise UnusableRowError("history_not_pairs")
    messages = []
    for pair in history:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise UnusableRowError("history_not_pairs")
        for role, text in zip(("user", "assistant"), pair, strict=True):
            messages.append({"role": role, "content": text.strip()})
    return messages


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _read_prompt_completion(record: dict[str, Any]) -> Row:
    prompt, completion = record["prompt"], record["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        return Row(
            read_messages(prompt, "prompt"),
            read_messages(completion, "completion"),
            tools=_read_tools(record),
            template_kwargs=_read_template_kwargs(record),
        )
    check_text(prompt, "prompt")
    check_text(completion, "completion")
    return Row(prompt, completion)  # not stripped: TRL trains on this very text


def _read_conversation(record: dict[str, Any], messages: Any, is_from_sharegpt: bool) -> Row:
    """Read a conversation whose last message is the completion.

    LLaMA-Factory reads a column `system` beside ShareGPT's conversations. TRL reads none beside `messages`.
    """
    messages = read_messages(messages, "prompt")
    if is_from_sharegpt and messages[0]["role"] not in SYSTEM_ROLES:
        messages = [*_system_message(record), *messages]
    if messages[-1].get("role") != "assistant":
        raise UnusableRowError("last_message_not_assistant")
    return Row(
        read_messages(messages[:-1], "prompt"),
        read_messages(messages[-1:], "completion"),
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


def _read_tools(record: dict[str, Any]) -> list[Any] | None:
    """Return the tools that TRL renders this conversation with."""
    tools = record.get("tools")
    if _is_blank(tools):
        return None
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
