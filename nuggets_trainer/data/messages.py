"""Messages as a dataset holds them -> messages as a chat template takes them; ShareGPT's roles get TRL's names."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Sequence
from typing import Any

from nuggets_trainer.data.row import SYSTEM_ROLES, Message, Row, UnusableRowError, content_text

logger = logging.getLogger(__name__)

CHATML_KEYS = {"from": "role", "value": "content"}  # as in TRL's `maybe_convert_to_chatml`

# ShareGPT's names, as LLaMA-Factory's `SharegptDatasetConverter` reads them. TRL renames the keys of a message and
# keeps its role, but no chat template that ships with a model knows these.
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}
# No observation: GLM-4's own template has that role, beside `user` and `assistant`.
ONLY_SHAREGPT = ("human", "gpt", "function_call")
KEPT_ROLES = (*SYSTEM_ROLES, "user", "assistant", "tool")
_END_OF_THOUGHT = "</think>"


def read_messages(value: Any, part: str) -> list[Message]:
    """Return messages as a chat template takes them; refuse empty or malformed ones.

    ShareGPT's keys and roles are renamed. Keys with null, which Arrow adds to messages of different shape, are
    dropped; those inside tool calls stay. transformers does the same when TRL renders a row.

    Args:
        value: what a column holds.
        part: name of the part in the reason, `prompt` or `completion`.

    Raises:
        UnusableRowError: if these are no messages, or if they say nothing.

    Example:
        >>> read_messages([{"from": "gpt", "value": "Blue."}], "completion")
        [{'role': 'assistant', 'content': 'Blue.'}]
    """
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise UnusableRowError(f"{part}_not_messages")
    has_sharegpt_names = is_sharegpt(value)
    messages = []
    for message in value:
        renamed = {CHATML_KEYS.get(key, key): item for key, item in message.items() if item is not None}
        _check_message(renamed, part)
        messages.append(_with_known_role(renamed) if has_sharegpt_names else renamed)
    if not any(map(_says_something, messages)):
        raise UnusableRowError(f"empty_{part}")
    return messages


def is_sharegpt(value: Any) -> bool:
    """Whether these are messages with ShareGPT's keys or roles."""
    if not isinstance(value, list):
        return False
    for message in value:
        if isinstance(message, dict) and (message.get("from") is not None or message.get("role") in ONLY_SHAREGPT):
            return True
    return False


def raw_roles(value: Any) -> list[str]:
    """Return the roles of messages as they are written, each once; what is no message has none.

    Example:
        >>> raw_roles([{"from": "human", "value": "a"}, {"role": "user"}, {"from": "human"}])
        ['human', 'user']
    """
    roles: dict[str, None] = {}
    for message in value if isinstance(value, list) else []:
        role = message.get("from") or message.get("role") if isinstance(message, dict) else None
        if isinstance(role, str):
            roles[role] = None
    return list(roles)


@functools.cache  # a run reads the same dataset several times; one message is enough
def log_renamed_roles(name: str, roles: tuple[str, ...]) -> None:
    """Say which of the roles are read as others.

    Args:
        name: name of the dataset.
        roles: roles as they are written.
    """
    renamed = [f"{role} as {SHAREGPT_ROLES[role]}" for role in roles if role in SHAREGPT_ROLES]
    if renamed:
        logger.info("`%s` has ShareGPT's roles, read for scoring and training alike: %s.", name, ", ".join(renamed))


def unknown_roles_error(name: str, roles: Sequence[str]) -> ValueError:
    """Return the error for a dataset that has roles with no known meaning in every row.

    Args:
        name: name of the dataset.
        roles: roles as they are written.
    """
    unknown = sorted(role for role in roles if role not in SHAREGPT_ROLES and role not in KEPT_ROLES)
    return ValueError(
        f"Every row of `{name}` has a message of an unknown role: {unknown}. ShareGPT's messages must come from "
        f"{', '.join([*SHAREGPT_ROLES, *KEPT_ROLES])}. Rename the roles (`dataset.map`)."
    )


def calls_of(message: Message) -> list[Any]:
    """Return the tool calls of a message; OpenAI's older files have one as `function_call`."""
    calls = list(message.get("tool_calls") or [])
    older = message.get("function_call")
    return calls if older is None else [*calls, older]


def conversation(row: Row) -> tuple[list[Message], list[Message]]:
    """Return prompt and completion as messages; text becomes one turn each."""
    if isinstance(row.prompt, list) and isinstance(row.completion, list):
        return row.prompt, row.completion
    return [{"role": "user", "content": row.prompt}], [{"role": "assistant", "content": row.completion}]


def system_messages(messages: str | list[Message]) -> list[Message]:
    """Return the system (or developer) messages of a conversation; text has none."""
    if isinstance(messages, str):
        return []
    return [message for message in messages if message["role"] in SYSTEM_ROLES]


def without_system(messages: list[Message]) -> list[Message]:
    """Return the messages of a conversation without those of the system."""
    return [message for message in messages if message["role"] not in SYSTEM_ROLES]


def joined_conversation(rows: Sequence[Row]) -> Row:
    """Join rows into one conversation, whose completion is that of the last row.

    A conversation has one system message, one list of tools and one set of options of the chat template. Each is that
    of the first row that has one; those of the others are left out.

    Args:
        rows: rows of any format that has text, at least one.

    Example:
        >>> joined = joined_conversation([Row("One?", "1"), Row("Two?", "2")])
        >>> [message["content"] for message in joined.prompt], joined.completion[0]["content"]
        (['One?', '1', 'Two?'], '2')
    """
    turns: list[Message] = []
    system: list[Message] = []
    completion: list[Message] = []
    for row in rows:
        prompt, completion = conversation(row)
        system = system or system_messages(prompt)
        turns += [*without_system(prompt), *completion]
    return Row(
        [*system, *turns[: len(turns) - len(completion)]],
        completion,
        tools=next((row.tools for row in rows if row.tools), None),
        template_kwargs=next((row.template_kwargs for row in rows if row.template_kwargs), None),
    )


def _with_known_role(message: Message) -> Message:
    """Give a message of ShareGPT the role, and a function call the form, that chat templates know."""
    role = message["role"]
    if role == "function_call":
        return _as_tool_call(message)
    if role not in SHAREGPT_ROLES and role not in KEPT_ROLES:
        raise UnusableRowError("unknown_role")
    return {**message, "role": SHAREGPT_ROLES.get(role, role)}


def _as_tool_call(message: Message) -> Message:
    """Read the JSON text of one call, or of a list of calls; a thought may stand before it."""
    thought, end, text = content_text(message).rpartition(_END_OF_THOUGHT)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise UnusableRowError("function_call_not_a_call") from error
    calls = content if isinstance(content, list) else [content]
    if not calls:
        raise UnusableRowError("function_call_not_a_call")
    functions = [{"type": "function", "function": _function(call)} for call in calls]
    return {**message, "role": "assistant", "content": thought + end, "tool_calls": functions}


def _function(call: Any) -> dict[str, Any]:
    """Return name and arguments of a call; arguments that are JSON text become a dict, which templates expect."""
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        raise UnusableRowError("function_call_not_a_call")
    arguments = call.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except json.JSONDecodeError as error:
            raise UnusableRowError("function_call_not_a_call") from error
    if not isinstance(arguments, dict):
        raise UnusableRowError("function_call_not_a_call")
    return {"name": call["name"], "arguments": arguments}


def _says_something(message: Message) -> bool:
    """Whether a message has text or a tool call; a system message alone does not make a prompt."""
    if message["role"] in SYSTEM_ROLES:
        return False
    return bool(content_text(message).strip() or calls_of(message))


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
