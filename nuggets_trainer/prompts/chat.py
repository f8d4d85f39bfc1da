"""The template `chat`: rows rendered by the tokenizer's own chat template."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nuggets_trainer.data.messages import conversation, joined_conversation, system_messages, without_system
from nuggets_trainer.data.row import Message, Row, UnusableRowError
from nuggets_trainer.prompts.end_mark import EndMarks
from nuggets_trainer.prompts.render_chat import PROBE, ChatRenderer, RenderedChat
from nuggets_trainer.prompts.row_alone import RowAlone, opening_of
from nuggets_trainer.prompts.segment import Remark, Segment, common_prefix_length, scored_at
from nuggets_trainer.prompts.shown import NOT_SHOWN, TextPiece, find_pieces, hidden_pieces, pieces_of, texts_behind
from nuggets_trainer.prompts.tokenize import RecentRows, checked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What a template leaves out in training too, and what a row is left without. All else that is not shown drops the row.
LEFT_OUT = {"reasoning": Remark.REASONING_LEFT_OUT, "system": Remark.SYSTEM_LEFT_OUT}


@dataclass(frozen=True)
class _Alone:
    """An anchor rendered alone.

    Attributes:
        segment: its zero-shot segment.
        pieces: what its rendering shows of it, without system messages.
    """

    segment: Segment
    pieces: list[TextPiece]


class ChatTemplate:
    """The tokenizer's own chat template; the candidate is an earlier user/assistant turn.

    Candidate and anchor are rendered as one conversation, never glued from two: some templates render a turn
    differently once it is not the last one. As in TRL, the completion starts where the rendered prompt (with its
    generation prompt) and the rendered conversation begin to differ. If the prompt's own text stands behind that
    place, the completion starts where the conversation begins to differ from one with another completion.

    What the rows say is searched for in each rendering, and a row whose turns are not shown is unusable. So is an
    anchor if more than an end mark would be scored behind its completion. Many
    templates leave reasoning out of earlier turns. If they show it in the last turn, the candidate is written as
    training sees it, up to the mark that ends it, and the anchor follows as the template writes it behind such a turn.
    Reasoning and system messages that the template leaves out in training too give the segment a remark.

    With a training template the scored tokens are those that TRL trains on with `assistant_only_loss`: what the
    anchor's assistant says, in the prompt's turns too unless `completion_only` is set.

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
        self._renderer = ChatRenderer(tokenizer, training_chat_template)
        self._end_marks = EndMarks(self._renderer, tokenizer)
        self._alone: RecentRows[_Alone] = RecentRows()

    def describe(self) -> dict[str, str]:
        """Return the name, the hash of the Jinja text, and the hash of a rendering (some templates write the date)."""
        probe = self._renderer.apply([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], {}).ids
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
        return self._render_alone(anchor).segment

    def one_shot(self, candidate: Row, anchor: Row) -> Segment:
        """Render both as one conversation, with the anchor's system message, tools and options.

        Those that the anchor does not have are taken from the candidate.
        """
        alone = self._alone.of(anchor, self._render_alone)
        shown_prompt, shown_completion = conversation(candidate)
        prompt, completion = conversation(anchor)
        own_system = system_messages(prompt)
        system = own_system or system_messages(shown_prompt)
        shown = without_system([*shown_prompt, *shown_completion])
        anchor_turns = [*without_system(prompt), *completion]
        tools = anchor.tools
        if candidate.tools and not anchor.tools:
            tools = candidate.tools
        options = _rendering(tools, anchor.template_kwargs or candidate.template_kwargs)

        rendered = self._renderer.encode([*system, *shown, *anchor_turns], options)
        pieces = pieces_of(shown)
        remarks: set[Remark] = set()
        hidden = hidden_pieces(rendered.text, [*pieces, *alone.pieces])
        if _are_all_reasoning(hidden):
            in_training = hidden_pieces(self._renderer.text([*system, *shown], options), pieces)
            if len(in_training) < len(hidden):
                rendered = self._renderer.encode_as_trained([*system, *shown], anchor_turns, options)
                hidden = hidden_pieces(rendered.text, [*pieces, *alone.pieces])
                remarks.add(Remark.AS_TRAINED)
        remarks |= _remarks_on(hidden)
        if not own_system:
            remarks |= _remarks_on(hidden_pieces(rendered.text, pieces_of(system)))
        if self._renderer.joins_parts and _has_parts([*shown_prompt, *shown_completion]):
            remarks.add(Remark.PARTS_JOINED)
        positions = self._assistant_positions(rendered)
        return replace(_scored_as_alone(rendered.ids, positions, alone.segment), remarks=frozenset(remarks))

    def few_shot(self, examples: Sequence[Row], row: Row) -> Segment:
        """Render the examples as earlier turns of the row's conversation, see `joined_conversation`."""
        return self.one_shot(joined_conversation(examples), row)

    def row_alone(self, row: Row) -> RowAlone:
        """Render the row's own conversation; BOS and the header of the assistant's turn open its completion."""
        segment = self.zero_shot(row)
        prompt = self._renderer.encode(conversation(row)[0], _rendering(row.tools, row.template_kwargs)).ids
        shared = common_prefix_length(prompt, segment.ids)
        header: list[int] = []
        if prompt[shared:] in ([], [self._tokenizer.eos_token_id]):  # Phi-3's template ends any conversation with EOS
            header = segment.ids[shared : segment.start]
        return RowAlone(segment, opening_of(segment.ids, self._tokenizer.bos_token_id, header))

    def num_tokens(self, row: Row) -> int:
        """Count the tokens of the row's own conversation, rendered once and not checked."""
        prompt, completion = conversation(row)
        return len(self._renderer.encode([*prompt, *completion], _rendering(row.tools, row.template_kwargs)).ids)

    def boundary_is_safe(self, boundary: list[int]) -> bool:
        """Whether there is a special token: the text on its two sides is tokenized apart, and elsewhere may merge."""
        special = {*self._tokenizer.all_special_ids, *self._tokenizer.get_added_vocab().values()}
        return not special.isdisjoint(boundary)

    def _render_alone(self, anchor: Row) -> _Alone:
        """Render a row alone, and check that its turns are shown.

        Raises:
            UnusableRowError: if it cannot be scored.
        """
        prompt, completion = conversation(anchor)
        options = _rendering(anchor.tools, anchor.template_kwargs)
        rendered = self._renderer.encode([*prompt, *completion], options)
        pieces = pieces_of([*without_system(prompt), *completion])
        ends = find_pieces(rendered.text, pieces)
        num_in_prompt = len(pieces_of(without_system(prompt)))
        prompt_end = max((end for end in ends[:num_in_prompt] if end is not None), default=0)
        segment, has_own_start = self._scored(prompt, completion, options, rendered, prompt_end)
        if all(end is None for end in ends[num_in_prompt:]):  # the end mark alone would be scored
            raise UnusableRowError(NOT_SHOWN)
        remarks = _remarks_on([piece for piece, end in zip(pieces, ends, strict=True) if end is None])
        self._check_end(rendered, segment, pieces)
        remarks |= _remarks_on(hidden_pieces(rendered.text, pieces_of(system_messages(prompt))))
        if has_own_start:
            remarks.add(Remark.OWN_START)
        if self._renderer.joins_parts and _has_parts([*prompt, *completion]):
            remarks.add(Remark.PARTS_JOINED)
        shown = [piece for piece, end in zip(pieces, ends, strict=True) if end is not None]
        return _Alone(replace(segment, remarks=frozenset(remarks)), shown)

    def _check_end(self, rendered: RenderedChat, segment: Segment, pieces: Sequence[TextPiece]) -> None:
        """Check that nothing but an end mark is scored behind what the completion says.

        Behind a tool call stands the rest of its JSON or XML, so that only what the template always writes is checked.

        Raises:
            UnusableRowError: if more is scored.
        """
        not_scored = self._tokenizer.decode(rendered.ids[segment.positions[-1] + 1 :])
        self._end_marks.check_usual(rendered.text, not_scored)
        if pieces and pieces[-1].kind != "tool":
            self._end_marks.check(texts_behind(rendered.text, pieces[-1].text), not_scored)

    def _scored(
        self,
        prompt: list[Message],
        completion: list[Message],
        options: dict[str, Any],
        rendered: RenderedChat,
        prompt_end: int,
    ) -> tuple[Segment, bool]:
        """Find the scored tokens of a conversation.

        Args:
            prompt: messages before the completion.
            completion: messages of the completion.
            options: arguments of `apply_chat_template`.
            rendered: the whole conversation.
            prompt_end: position in the rendered text behind what the prompt says.

        Returns:
            The segment, and whether the completion starts elsewhere than TRL says.
        """
        start, has_own_start = 1, False  # the first token has no context
        is_masked = self._training_chat_template is not None
        if not is_masked or self._completion_only:
            start, has_own_start = self._start(prompt, completion, options, rendered, prompt_end)
        if not is_masked:
            return checked(Segment(rendered.ids, start)), has_own_start
        said = [position for position in self._assistant_positions(rendered) if position >= max(start, 1)]
        if not said:
            raise UnusableRowError("no_assistant_tokens")
        return scored_at(rendered.ids, said), has_own_start

    def _start(
        self,
        prompt: list[Message],
        completion: list[Message],
        options: dict[str, Any],
        rendered: RenderedChat,
        prompt_end: int,
    ) -> tuple[int, bool]:
        """Find the position where the completion starts in the ids of the whole conversation, as TRL does.

        Mistral's templates write a system message into the last turn of a prompt, but not of a conversation. The two
        then part before the prompt's own text. Another completion in place of the real one shows where this starts.
        """
        before = self._renderer.encode(prompt, {**options, "add_generation_prompt": True})
        if before.text[:prompt_end] != rendered.text[:prompt_end]:
            other = {"role": completion[0]["role"], "content": PROBE}
            with_other = self._renderer.encode([*prompt, other], options)
            if with_other.text[:prompt_end] == rendered.text[:prompt_end]:
                return common_prefix_length(with_other.ids, rendered.ids), True
        return common_prefix_length(before.ids, rendered.ids), False

    def _assistant_positions(self, rendered: RenderedChat) -> Sequence[int]:
        """Positions that may be scored: the assistant's under a training template, else all."""
        if rendered.assistant_mask is None:
            return range(len(rendered.ids))
        return [position for position, is_said in enumerate(rendered.assistant_mask) if is_said and position > 0]


def _are_all_reasoning(pieces: Sequence[TextPiece]) -> bool:
    return bool(pieces) and all(piece.kind == "reasoning" for piece in pieces)


def _remarks_on(hidden: Sequence[TextPiece]) -> set[Remark]:
    """Return the remarks on what a rendering leaves out.

    Raises:
        UnusableRowError: if this is what a turn says.
    """
    kinds = {piece.kind for piece in hidden}
    if not kinds <= set(LEFT_OUT):
        raise UnusableRowError(NOT_SHOWN)
    return {LEFT_OUT[kind] for kind in kinds}


def _has_parts(messages: Sequence[Message]) -> bool:
    return any(isinstance(message.get("content"), list) for message in messages)


def _scored_as_alone(ids: list[int], positions: Sequence[int], alone: Segment) -> Segment:
    """Score the last of these positions, as many as the anchor has in its zero-shot segment.

    Raises:
        UnusableRowError: if the tokens there are not those that the zero-shot segment scores.
    """
    last = positions[-alone.num_completion_tokens :]
    if [ids[position] for position in last] != alone.targets:
        raise UnusableRowError("completion_changes")
    return scored_at(ids, last)


def _rendering(tools: list[Any] | None, kwargs: dict[str, Any] | None) -> dict[str, Any]:
    """Return arguments of `apply_chat_template`, as TRL puts them together."""
    return {"tools": tools, **(kwargs or {})}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
