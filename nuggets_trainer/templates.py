"""How rows become token ids: the templates `chat`, `plain` and `nuggets`. Knows no model, no ranks and no files.

Each renders an anchor alone (zero-shot) and behind a candidate (one-shot). These renderings are the definition of what
is scored; `prompts.py` splits them so that the candidate is computed once.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from nuggets_trainer.pool import SEPARATOR, Message, Pool, Row, UnusableRowError, joined_text
from nuggets_trainer.segment import Segment, common_prefix_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUGGETS_MAX_ANCHOR_TOKENS = 200


class Template(Protocol):
    """How rows become token ids."""

    name: str

    def joins_safely(self, boundary: list[int]) -> bool:
        """Whether the ids behind this stretch, between candidate and anchor, cannot depend on the candidate."""

    def describe(self) -> dict[str, str]:
        """Return what can change a score, for the fingerprint."""

    def zero_shot(self, anchor: Row) -> Segment:
        """Render the anchor alone."""

    def one_shot(self, candidate: Row, anchor: Row) -> Segment:
        """Render the candidate and, behind it, the anchor; the completion span is the anchor's."""


class ChatTemplate:
    """The tokenizer's own chat template; the candidate is an earlier user/assistant turn.

    Both turns are rendered as one conversation, never glued from two: some templates render a turn differently once it
    is not the last one. The completion starts where the prompt (with its generation prompt) and the full conversation
    part, as in TRL.

    Raises:
        ValueError: if the tokenizer has no chat template.
    """

    name = "chat"

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise ValueError(
                "`template='chat'` needs a tokenizer with a chat template, but this tokenizer has none. Set "
                "`chat_template_path` (SFTConfig) or use `template='plain'`."
            )
        self._tokenizer = tokenizer

    def describe(self) -> dict[str, str]:
        """Return the name, the hash of the Jinja text, and that of a rendering (some templates write the date)."""
        text = str(self._tokenizer.chat_template)
        probe = self._apply([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
        return {
            "template": self.name,
            "chat_template_sha256": hashlib.sha256(text.encode()).hexdigest()[:32],
            "chat_template_renders_sha256": hashlib.sha256(str(probe).encode()).hexdigest()[:32],
        }

    def zero_shot(self, anchor: Row) -> Segment:
        """Render the anchor's own conversation."""
        prompt, completion = _conversation(anchor)
        return self._render(prompt, completion)

    def one_shot(self, candidate: Row, anchor: Row) -> Segment:
        """Render both as one conversation, under the anchor's system message or else the candidate's."""
        shown_prompt, shown_completion = _conversation(candidate)
        prompt, completion = _conversation(anchor)
        system = system_messages(prompt) or system_messages(shown_prompt)
        turns = [m for m in [*shown_prompt, *shown_completion, *prompt] if m["role"] != "system"]
        return self._render([*system, *turns], completion)

    def joins_safely(self, boundary: list[int]) -> bool:
        """Tell by a special token: text on its two sides is tokenized apart, elsewhere it may merge."""
        special = {*self._tokenizer.all_special_ids, *self._tokenizer.get_added_vocab().values()}
        return not special.isdisjoint(boundary)

    def _render(self, prompt: list[Message], completion: list[Message]) -> Segment:
        with _dropping_what_cannot_be_tokenized():
            prompt_ids = self._apply(prompt, add_generation_prompt=True)
            ids = self._apply([*prompt, *completion])
        return _checked(Segment(ids, common_prefix_length(prompt_ids, ids)))

    def _apply(self, messages: list[Message], **kwargs: bool) -> list[int]:
        encoded = self._tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **kwargs)
        return list(encoded["input_ids"])


class PlainTemplate:
    r"""Text. Pieces are tokenized apart; candidate and anchor are joined by a blank line.

    `BOS candidate-prompt candidate-completion "\n\n" anchor-prompt anchor-completion EOS`: BOS once and EOS once, in
    both shots (a tokenizer without BOS, as Qwen's, gets none). Prompt and completion follow each other directly in
    TRL's text columns and stand apart by a blank line in Alpaca columns; the contents of messages are joined by blank
    lines. No EOS stands between candidate and anchor: it tells a base model that the document is over.

    Raises:
        ValueError: if the tokenizer has no EOS token.
    """

    name = "plain"

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.eos_token_id is None:
            raise ValueError(
                "`template='plain'` ends completions with the EOS token, but this tokenizer has none. Set "
                "`eos_token` (SFTConfig, or `tokenizer.eos_token`)."
            )
        self._tokenizer = tokenizer
        self._bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        self._separator = _encode(tokenizer, SEPARATOR)

    def describe(self) -> dict[str, str]:
        """Return the name."""
        return {"template": self.name}

    def zero_shot(self, anchor: Row) -> Segment:
        """Return BOS, prompt, completion, EOS."""
        prompt, completion = self._pieces(anchor)
        start = len(self._bos) + len(prompt)
        return _checked(Segment([*self._bos, *prompt, *self._closed(completion)], start))

    def one_shot(self, candidate: Row, anchor: Row) -> Segment:
        """Return BOS, candidate, blank line, prompt, completion, EOS."""
        shown_prompt, shown_completion = self._pieces(candidate)
        prompt, completion = self._pieces(anchor)
        context = [*self._bos, *shown_prompt, *shown_completion, *self._separator, *prompt]
        return _checked(Segment([*context, *self._closed(completion)], len(context)))

    def joins_safely(self, boundary: list[int]) -> bool:
        """Return True: candidate and anchor are tokenized apart."""
        return True

    def _pieces(self, row: Row) -> tuple[list[int], list[int]]:
        separator = _encode(self._tokenizer, _row_separator(row))
        return self._encode_part(row.prompt) + separator, self._encode_part(row.completion)

    def _encode_part(self, part: str | list[Message]) -> list[int]:
        if isinstance(part, str):
            return _encode(self._tokenizer, part)
        ids = _encode(self._tokenizer, part[0].get("content", ""))
        for message in part[1:]:
            ids += self._separator + _encode(self._tokenizer, message.get("content", ""))
        return ids

    def _closed(self, completion: list[int]) -> list[int]:
        eos = self._tokenizer.eos_token_id
        if not completion:
            raise UnusableRowError("empty_completion")
        return completion if completion[-1] == eos else [*completion, eos]


class NuggetsTemplate:
    r"""The reference implementation to the letter (github.com/pldlgb/nuggets).

    `Instruction:\n...\nInput:\n...\nResponse:\n...`; BOS before the candidate only; no separator and no EOS;
    prompt and prompt+completion are tokenized apart and the span starts at the length of the prompt's ids; anchors are
    cut at 200 tokens.

    Raises:
        ValueError: if the tokenizer has no BOS token.
    """

    name = "nuggets"

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.bos_token_id is None:
            raise ValueError(
                "`template='nuggets'` puts the BOS token before the candidate, as the reference does, but this "
                "tokenizer has none. Set `tokenizer.bos_token` or use `template='plain'`."
            )
        self._tokenizer = tokenizer

    def describe(self) -> dict[str, str]:
        """Return the name."""
        return {"template": self.name}

    def zero_shot(self, anchor: Row) -> Segment:
        """Return prompt and completion, cut at 200 tokens, without BOS."""
        ids, start = self._uncut(anchor)
        if start >= NUGGETS_MAX_ANCHOR_TOKENS:
            raise UnusableRowError("completion_cut_away")
        return _checked(Segment(ids[:NUGGETS_MAX_ANCHOR_TOKENS], start))

    def cuts(self, anchor: Row) -> bool:
        """Whether the anchor is longer than 200 tokens."""
        return len(self._uncut(anchor)[0]) > NUGGETS_MAX_ANCHOR_TOKENS

    def one_shot(self, candidate: Row, anchor: Row) -> Segment:
        """Return BOS, the whole candidate, and the anchor as in `zero_shot`."""
        shown = _nuggets_prompt(candidate) + joined_text(candidate.completion).strip()
        prefix = [self._tokenizer.bos_token_id, *_encode(self._tokenizer, shown)]
        anchor_segment = self.zero_shot(anchor)
        return Segment([*prefix, *anchor_segment.ids], len(prefix) + anchor_segment.start)

    def joins_safely(self, boundary: list[int]) -> bool:
        """Return True: candidate and anchor are tokenized apart."""
        return True

    def _uncut(self, row: Row) -> tuple[list[int], int]:
        prompt = _nuggets_prompt(row)
        ids = _encode(self._tokenizer, prompt + joined_text(row.completion).strip())
        return ids, len(_encode(self._tokenizer, prompt))


def resolve_template(name: str, *, has_chat_template: bool, pool: Pool) -> str:
    """Name the template that `auto` stands for: `chat` where tokenizer and rows allow it, else `plain`.

    Rows with text in TRL's own `prompt` and `completion` columns are `plain`, because TRL trains on that text without
    a chat template. Any other name is returned as it is.
    """
    if name != "auto":
        return name
    return "chat" if has_chat_template and (pool.is_conversational or pool.format == "alpaca") else "plain"


def make_template(name: str, tokenizer: PreTrainedTokenizerBase, pool: Pool) -> Template:
    """Build the template called `name` (`auto` looks at tokenizer and pool).

    Raises:
        ValueError: if the tokenizer lacks what the template needs.
    """
    name = resolve_template(name, has_chat_template=bool(tokenizer.chat_template), pool=pool)
    if name == "chat":
        return ChatTemplate(tokenizer)
    return PlainTemplate(tokenizer) if name == "plain" else NuggetsTemplate(tokenizer)


def train_columns(template_name: str, row: Row) -> dict[str, str | list[Message]]:
    """Give a row as TRL's `prompt` and `completion`, so that training sees what was scored under that template.

    `chat` gives lists of messages, which TRL renders with the chat template; the others give text, to which TRL adds
    EOS. Meant for rows with Alpaca columns, which TRL does not know.
    """
    if template_name == "chat":
        prompt, completion = _conversation(row)
        return {"prompt": prompt, "completion": completion}
    if template_name == "plain":
        return {"prompt": joined_text(row.prompt) + _row_separator(row), "completion": joined_text(row.completion)}
    return {"prompt": _nuggets_prompt(row), "completion": joined_text(row.completion).strip()}


def _nuggets_prompt(row: Row) -> str:
    instruction, extra = row.alpaca or (joined_text(row.prompt).strip(), "")
    return f"Instruction:\n{instruction}\n" + (f"Input:\n{extra}\n" if extra else "") + "Response:\n"


def _checked(segment: Segment) -> Segment:
    if segment.num_completion_tokens <= 0:
        raise UnusableRowError("empty_completion")
    if segment.start == 0:
        raise UnusableRowError("empty_prompt")
    return segment


@contextlib.contextmanager
def _dropping_what_cannot_be_tokenized() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # chat templates raise what they like, `tokenizers` bare `Exception`
        raise UnusableRowError("not_tokenizable") from error


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    if not text:
        return []
    with _dropping_what_cannot_be_tokenized():
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _conversation(row: Row) -> tuple[list[Message], list[Message]]:
    if isinstance(row.prompt, list) and isinstance(row.completion, list):
        return row.prompt, row.completion
    return [{"role": "user", "content": row.prompt}], [{"role": "assistant", "content": row.completion}]


def system_messages(messages: str | list[Message]) -> list[Message]:
    """Return the system messages of a conversation; text has none."""
    return [m for m in messages if m["role"] == "system"] if isinstance(messages, list) else []


def _row_separator(row: Row) -> str:
    return SEPARATOR if row.is_conversational else row.separator
