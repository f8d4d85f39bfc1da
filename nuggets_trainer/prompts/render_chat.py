"""Messages -> text and token ids by the chat template of a tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nuggets_trainer.data.row import Message, UnusableRowError, content_text
from nuggets_trainer.prompts.shown import NOT_SHOWN
from nuggets_trainer.prompts.tokenize import dropping_what_cannot_be_tokenized, token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE = "nuggetsprobe"  # a text that no template writes by itself


@dataclass(frozen=True)
class RenderedChat:
    """A conversation under a chat template.

    Attributes:
        text: what the template writes.
        ids: token ids of the text.
        assistant_mask: whether each token is the assistant's, under a training template; None under another.
    """

    text: str
    ids: list[int]
    assistant_mask: list[int] | None = None


class ChatRenderer:
    """Render conversations as TRL does, and give each template contents in the form that it shows.

    Some templates of vision models read contents only if they are lists of parts. They get each text as one part, as
    TRL gives it to such a model's processor. Other templates write a list of parts as nothing, or as Python would
    print it. They get the joined text.

    Args:
        tokenizer: tokenizer with a chat template.
        training_chat_template: TRL's chat template with `{% generation %}` around what the assistant says, used in
            place of the tokenizer's own.

    Attributes:
        as_content: function that gives a message's content the form that the template shows, and returns a message
            that has it already as it is; None if the template shows both forms, or neither.
        joins_parts: whether contents that are lists of parts are given as text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, training_chat_template: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._training_chat_template = training_chat_template
        self.as_content: Callable[[Message], Message] | None = None
        shows_text, shows_parts = self._shows(str), self._shows(as_parts)
        if shows_parts and not shows_text:
            self.as_content = _with_parts
        self.joins_parts = shows_text and not shows_parts
        if self.joins_parts:
            self.as_content = _with_text

    def apply(self, messages: list[Message], options: dict[str, Any]) -> RenderedChat:
        """Render and tokenize a conversation.

        Args:
            messages: conversation.
            options: arguments of `apply_chat_template`.

        Raises:
            Exception: what the template or the tokenizer raises.
        """
        text = self._write(messages, options)
        if self._training_chat_template is None or options.get("add_generation_prompt"):
            return RenderedChat(text, self._ids(text))
        encoded = self._tokenizer.apply_chat_template(
            self._fitting(messages),
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            tokenizer_kwargs={"verbose": False},
            **self._options(options),
        )
        return RenderedChat(text, list(encoded["input_ids"]), list(encoded["assistant_masks"]))

    def encode(self, messages: list[Message], options: dict[str, Any]) -> RenderedChat:
        """Render like `apply`, but give a row that cannot be rendered a reason.

        Raises:
            UnusableRowError: if template or tokenizer fail.
        """
        with dropping_what_cannot_be_tokenized():
            return self.apply(messages, options)

    def text(self, messages: list[Message], options: dict[str, Any]) -> str:
        """Render a conversation without tokenizing it.

        Raises:
            UnusableRowError: if the template fails.
        """
        with dropping_what_cannot_be_tokenized():
            return self._write(messages, options)

    def encode_as_trained(self, shown: list[Message], behind: list[Message], options: dict[str, Any]) -> RenderedChat:
        """Render a conversation as training does, where it ends with the last turn, and more turns behind it.

        What the template writes behind the last turn is found from the same conversation with a mark as its last text:
        its end where nothing follows, and its end and the other turns where they follow.

        Args:
            shown: conversation that ends with a turn of the assistant.
            behind: turns behind it.
            options: arguments of `apply_chat_template`.

        Raises:
            UnusableRowError: if the two cannot be joined.
        """
        marked = [*shown[:-1], {"role": shown[-1]["role"], "content": PROBE}]
        whole = self.text(shown, options)
        end = self.text(marked, options).rpartition(PROBE)[2]
        with_mark = self.encode([*marked, *behind], options)
        if not whole.endswith(end):
            raise UnusableRowError(NOT_SHOWN)
        text = whole.removesuffix(end) + with_mark.text.rpartition(PROBE)[2]
        with dropping_what_cannot_be_tokenized():
            ids = self._ids(text)
        mask = with_mark.assistant_mask
        if mask is not None:  # of the same tokens at the end, where the turns behind are
            mask = [0] * max(0, len(ids) - len(mask)) + mask[-len(ids) :]
        return RenderedChat(text, ids, mask)

    def _ids(self, text: str) -> list[int]:
        return token_ids(self._tokenizer, text, add_special_tokens=False)

    def _write(self, messages: list[Message], options: dict[str, Any]) -> str:
        written: str = self._tokenizer.apply_chat_template(
            self._fitting(messages), tokenize=False, return_dict=True, **self._options(options)
        )
        return written

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"chat_template": self._training_chat_template, **options}

    def _fitting(self, messages: list[Message]) -> list[Message]:
        if self.as_content is None:
            return messages
        return [self.as_content(message) for message in messages]

    def _shows(self, as_content: Callable[[str], str | list[Message]]) -> bool:
        """Whether the template shows a text that is given as this content, and nothing of what carries it."""
        turns = [{"role": role, "content": as_content(PROBE + role)} for role in ("user", "assistant")]
        try:
            text = self._write(turns, {})
        except Exception:  # noqa: BLE001 - chat templates raise what they like
            return False
        is_shown = all(PROBE + role in text for role in ("user", "assistant"))
        return is_shown and not any(f"{quote}{PROBE}" in text for quote in "'\"")


def _with_parts(message: Message) -> Message:
    """Give a message's text as a list of one part; other contents stay."""
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": as_parts(content)}
    return message


def _with_text(message: Message) -> Message:
    """Give a message's parts as one text; other contents stay."""
    if isinstance(message.get("content"), list):
        return {**message, "content": content_text(message)}
    return message


def as_parts(text: str) -> list[Message]:
    """Return a text as the list of one part that templates of vision models read."""
    return [{"type": "text", "text": text}]
