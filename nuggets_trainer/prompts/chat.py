"""The template `chat`: rows rendered by the tokenizer's own chat template."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from nuggets_trainer.data.row import SYSTEM_ROLES, Message, Row, UnusableRowError
from nuggets_trainer.prompts.segment import Segment, common_prefix_length, scored_at
from nuggets_trainer.prompts.tokenize import checked, dropping_what_cannot_be_tokenized

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ChatTemplate:
    """The tokenizer's own chat template; the candidate is an earlier user/assistant turn.

    Candidate and anchor are rendered as one conversation, never glued from two: some templates render a turn
    differently once it is not the last one. As in TRL, the completion starts where the rendered prompt (with its
    generation prompt) and the rendered conversation begin to differ.

    With a training template the scored tokens are those that TRL trains on with `assistant_only_loss`: what the
    anchor's assistant says, in the prompt's turns too unless `completion_only` is set.

    Some templates of vision models read contents only if they are lists of parts. They get each text as one part, as
    TRL gives it to such a model's processor.

    Args:
        tokenizer: tokenizer with a chat template.
        training_chat_template: TRL's chat template with `{% generation %}` around what the assistant says, used in
            place of the tokenizer's own.
        completion_only: whether a training template leaves out what the assistant says in the prompt.

    Raises:
        ValueError: if the tokenizer has no chat template.
    """

    name = "chat"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        training_chat_template: str | None = None,
        completion_only: bool = False,
    ) -> None:
        if not tokenizer.chat_template:
            raise ValueError(
                "`template='chat'` needs a tokenizer with a chat template, but this tokenizer has none. Set "
                "`chat_template_path` (SFTConfig) or use `template='plain'`."
            )
        self._tokenizer = tokenizer
        self._training_chat_template = training_chat_template
        self._completion_only = completion_only
        self._alone: dict[str, Segment] = {}  # zero-shot segments by the anchor's content hash
        self._gives_parts = False
        self._gives_parts = not self._shows(str) and self._shows(_as_parts)

    def describe(self) -> dict[str, str]:
        """Return the name, the hash of the Jinja text, and the hash of a rendering (some templates write the date)."""
        probe = self._apply([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], {})["input_ids"]
        found = {
            "template": self.name,
            "chat_template_sha256": _sha256(str(self._tokenizer.chat_template)),
            "chat_template_renders_sha256": _sha256(str(probe)),
        }
        if self._training_chat_template is not None:
            found["training_chat_template_sha256"] = _sha256(self._training_chat_template)
            if self._completion_only:
                found["assistant_tokens"] = "of the completion"
        return found

    def zero_shot(self, anchor: Row) -> Segment:
        """Render the anchor's own conversation."""
        prompt, completion = conversation(anchor)
        return self._render(prompt, completion, _rendering(anchor.tools, anchor.template_kwargs))

    def one_shot(self, candidate: Row, anchor: Row) -> Segment:
        """Render both as one conversation, with the anchor's system message, tools and options.

        Those that the anchor does not have are taken from the candidate.
        """
        shown_prompt, shown_completion = conversation(candidate)
        prompt, completion = conversation(anchor)
        own_system = system_messages(prompt)
        system = own_system or system_messages(shown_prompt)
        turns = _without_system([*shown_prompt, *shown_completion, *prompt])
        tools = anchor.tools
        if candidate.tools and not anchor.tools:
            tools = candidate.tools
        kwargs = anchor.template_kwargs or candidate.template_kwargs
        # What is taken from the candidate may change the generation prompt, and with it the start of the completion.
        has_borrowed = (system, tools, kwargs) != (own_system, anchor.tools, anchor.template_kwargs)
        alone = None
        if has_borrowed or self._training_chat_template is not None:
            alone = self._zero_shot_once(anchor)
        return self._render([*system, *turns], completion, _rendering(tools, kwargs), alone)

    def boundary_is_safe(self, boundary: list[int]) -> bool:
        """Whether there is a special token: the text on its two sides is tokenized apart, and elsewhere may merge."""
        special = {*self._tokenizer.all_special_ids, *self._tokenizer.get_added_vocab().values()}
        return not special.isdisjoint(boundary)

    def _zero_shot_once(self, anchor: Row) -> Segment:
        key = anchor.key
        if key not in self._alone:
            self._alone[key] = self.zero_shot(anchor)
        return self._alone[key]

    def _render(
        self,
        prompt: list[Message],
        completion: list[Message],
        rendering: dict[str, Any],
        alone: Segment | None = None,
    ) -> Segment:
        """Render a conversation.

        Args:
            prompt: messages before the completion.
            completion: messages of the completion.
            rendering: arguments of `apply_chat_template`.
            alone: zero-shot segment of the anchor, whose scored tokens the conversation must end with; None finds the
                start of the completion from the prompt.
        """
        if self._training_chat_template is not None:
            return self._render_masked(prompt, completion, rendering, alone)
        ids = self._encode([*prompt, *completion], rendering)["input_ids"]
        if alone is not None:
            return _scored_as_alone(ids, range(len(ids)), alone)
        return checked(Segment(ids, self._start(prompt, ids, rendering)))

    def _render_masked(
        self, prompt: list[Message], completion: list[Message], rendering: dict[str, Any], alone: Segment | None
    ) -> Segment:
        """Render a conversation under the training template, which marks the assistant's tokens."""
        encoded = self._encode([*prompt, *completion], {**rendering, "return_assistant_tokens_mask": True})
        ids = encoded["input_ids"]
        start = 1  # the first token has no context
        if self._completion_only and alone is None:
            start = max(start, self._start(prompt, ids, rendering))
        said = [position for position in range(start, len(ids)) if encoded["assistant_masks"][position]]
        if not said:
            raise UnusableRowError("no_assistant_tokens")
        if alone is None:
            return scored_at(ids, said)
        return _scored_as_alone(ids, said, alone)

    def _start(self, prompt: list[Message], ids: list[int], rendering: dict[str, Any]) -> int:
        """Find the position where the completion starts in the ids of the whole conversation, as TRL does."""
        prompt_ids = self._encode(prompt, {**rendering, "add_generation_prompt": True})["input_ids"]
        return common_prefix_length(prompt_ids, ids)

    def _shows(self, as_content: Callable[[str], str | list[Message]]) -> bool:
        """Whether the template shows a text that is given as this content."""
        renderings = []
        for text in ("a", "b"):
            turns = [{"role": role, "content": as_content(text)} for role in ("user", "assistant")]
            try:
                renderings.append(self._apply(turns, {}))
            except Exception:  # noqa: BLE001 - chat templates raise what they like
                return False
        return renderings[0]["input_ids"] != renderings[1]["input_ids"]

    def _apply(self, messages: list[Message], rendering: dict[str, Any]) -> dict[str, list[int]]:
        if self._gives_parts:
            messages = [_with_parts(message) for message in messages]
        options = {"chat_template": self._training_chat_template, **rendering}
        encoded = self._tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options)
        return {name: list(values) for name, values in encoded.items()}

    def _encode(self, messages: list[Message], rendering: dict[str, Any]) -> dict[str, list[int]]:
        """Render like `_apply`, but give a row that cannot be rendered a reason."""
        with dropping_what_cannot_be_tokenized():
            return self._apply(messages, rendering)


def _scored_as_alone(ids: list[int], positions: Sequence[int], alone: Segment) -> Segment:
    """Score the last of these positions, as many as the anchor has in its zero-shot segment.

    Raises:
        UnusableRowError: if the tokens there are not those that the zero-shot segment scores.
    """
    last = positions[-alone.num_completion_tokens :]
    if [ids[position] for position in last] != alone.targets:
        raise UnusableRowError("completion_changes")
    return scored_at(ids, last)


def _with_parts(message: Message) -> Message:
    """Give a message's text as a list of one part; other contents stay."""
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": _as_parts(content)}
    return message


def _as_parts(text: str) -> list[Message]:
    return [{"type": "text", "text": text}]


def _rendering(tools: list[Any] | None, kwargs: dict[str, Any] | None) -> dict[str, Any]:
    """Return arguments of `apply_chat_template`, as TRL puts them together."""
    return {"tools": tools, **(kwargs or {})}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


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


def _without_system(messages: list[Message]) -> list[Message]:
    return [message for message in messages if message["role"] not in SYSTEM_ROLES]
