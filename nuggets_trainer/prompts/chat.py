"""The template `chat`: rows rendered by the tokenizer's own chat template. Knows no model and no files."""

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

    Both turns are rendered as one conversation, never glued from two: some templates render a turn differently once it
    is not the last one. The completion starts where the prompt (with its generation prompt) and the full conversation
    part, as in TRL. Under a training template what the anchor's assistant says is scored instead, with or without the
    turns of the prompt: what TRL trains on with `assistant_only_loss`. Where the template of a vision model reads the
    parts of a content alone, text is given as a part, as TRL gives it to such a model's processor.

    Args:
        tokenizer: has a chat template.
        training_chat_template: TRL's, with `{% generation %}` around what the assistant says; takes the place of the
            tokenizer's own.
        completion_only: under a training template, leave out what the assistant says in the prompt.

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
        self._alone: dict[str, Segment] = {}
        self._gives_parts = False
        self._gives_parts = not self._shows(str) and self._shows(_parts)

    def describe(self) -> dict[str, str]:
        """Return the name, the hash of the Jinja text, and that of a rendering (some templates write the date)."""
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
        """Render both as one conversation, under the anchor's system message, tools and options.

        Of these, what the anchor has none of is taken from the candidate.
        """
        shown_prompt, shown_completion = conversation(candidate)
        prompt, completion = conversation(anchor)
        own_system = system_messages(prompt)
        system = own_system or system_messages(shown_prompt)
        turns = [m for m in [*shown_prompt, *shown_completion, *prompt] if m["role"] not in SYSTEM_ROLES]
        tools = candidate.tools if candidate.tools and not anchor.tools else anchor.tools
        kwargs = anchor.template_kwargs or candidate.template_kwargs
        # These may change the generation prompt, and so move the start of the completion.
        borrowed = (system, tools, kwargs) != (own_system, anchor.tools, anchor.template_kwargs)
        alone = self._zero_shot_once(anchor) if borrowed or self._training_chat_template is not None else None
        return self._render([*system, *turns], completion, _rendering(tools, kwargs), alone)

    def boundary_is_safe(self, boundary: list[int]) -> bool:
        """Tell by a special token: text on its two sides is tokenized apart, elsewhere it may merge."""
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
        """Render a conversation; score as many tokens at its end as the anchor has `alone`, where that is given."""
        if self._training_chat_template is not None:
            return self._render_masked(prompt, completion, rendering, alone)
        ids = self._encode([*prompt, *completion], rendering)["input_ids"]
        if alone is not None:
            return _as_alone(ids, range(len(ids)), alone)
        return checked(Segment(ids, self._start(prompt, ids, rendering)))

    def _render_masked(
        self, prompt: list[Message], completion: list[Message], rendering: dict[str, Any], alone: Segment | None
    ) -> Segment:
        encoded = self._encode([*prompt, *completion], {**rendering, "return_assistant_tokens_mask": True})
        ids = encoded["input_ids"]
        start = self._start(prompt, ids, rendering) if self._completion_only and alone is None else 1
        said = [p for p, inside in enumerate(encoded["assistant_masks"]) if inside and p >= max(start, 1)]
        if not said:
            raise UnusableRowError("no_assistant_tokens")
        return scored_at(ids, said) if alone is None else _as_alone(ids, said, alone)

    def _start(self, prompt: list[Message], ids: list[int], rendering: dict[str, Any]) -> int:
        """Position in the whole conversation's ids where its completion starts, as TRL finds it."""
        prompt_ids = self._encode(prompt, {**rendering, "add_generation_prompt": True})["input_ids"]
        return common_prefix_length(prompt_ids, ids)

    def _shows(self, written: Callable[[str], str | list[Message]]) -> bool:
        """Whether the template shows texts that are given in this way."""
        renderings = []
        for text in ("a", "b"):
            try:
                turns = [{"role": role, "content": written(text)} for role in ("user", "assistant")]
                renderings.append(self._apply(turns, {}))
            except Exception:  # noqa: BLE001 - chat templates raise what they like
                return False
        return renderings[0]["input_ids"] != renderings[1]["input_ids"]

    def _apply(self, messages: list[Message], rendering: dict[str, Any]) -> dict[str, list[int]]:
        if self._gives_parts:
            messages = [{**m, "content": _parts(m["content"])} if _is_text(m) else m for m in messages]
        encoded = self._tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=True, **{"chat_template": self._training_chat_template, **rendering}
        )
        return {name: list(values) for name, values in encoded.items()}

    def _encode(self, messages: list[Message], rendering: dict[str, Any]) -> dict[str, list[int]]:
        """As `_apply`, but what cannot be rendered drops the row."""
        with dropping_what_cannot_be_tokenized():
            return self._apply(messages, rendering)


def _as_alone(ids: list[int], positions: Sequence[int], alone: Segment) -> Segment:
    """Score the last of these positions, as many as the anchor has alone.

    Raises:
        UnusableRowError: if these are not the tokens that are scored alone.
    """
    last = positions[-alone.num_completion_tokens :]
    if [ids[position] for position in last] != alone.targets:
        raise UnusableRowError("completion_changes")
    return scored_at(ids, last)


def _is_text(message: Message) -> bool:
    return isinstance(message.get("content"), str)


def _parts(text: str) -> list[Message]:
    return [{"type": "text", "text": text}]


def _rendering(tools: list[Any] | None, kwargs: dict[str, Any] | None) -> dict[str, Any]:
    """Arguments of `apply_chat_template`, as TRL puts them together."""
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
    return [m for m in messages if m["role"] in SYSTEM_ROLES] if isinstance(messages, list) else []
