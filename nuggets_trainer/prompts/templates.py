"""How rows become token ids: the templates `chat`, `plain`, `nuggets` and `tokens`. Knows no model and no files.

Each renders an anchor alone (zero-shot) and behind a candidate (one-shot). These renderings are the definition of what
is scored; `prompts.py` splits them so that the candidate is computed once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import SEPARATOR, Message, Row, UnusableRowError, content_text, joined_text
from nuggets_trainer.prompts.chat import ChatTemplate, conversation
from nuggets_trainer.prompts.pretokenized import TokensTemplate
from nuggets_trainer.prompts.segment import Segment
from nuggets_trainer.prompts.tokenize import checked, encode, without_eos

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUGGETS_MAX_ANCHOR_TOKENS = 200


class Template(Protocol):
    """How rows become token ids."""

    name: str

    def boundary_is_safe(self, boundary: list[int]) -> bool:
        """Whether the ids behind this stretch, between candidate and anchor, cannot depend on the candidate."""

    def describe(self) -> dict[str, str]:
        """Return what can change a score, for the fingerprint."""

    def zero_shot(self, anchor: Row) -> Segment:
        """Render the anchor alone."""

    def one_shot(self, candidate: Row, anchor: Row) -> Segment:
        """Render the candidate and, behind it, the anchor; the completion span is the anchor's."""


class PlainTemplate:
    r"""Text. Pieces are tokenized apart; candidate and anchor are joined by a blank line.

    `BOS candidate-prompt candidate-completion "\n\n" anchor-prompt anchor-completion EOS`: BOS once and EOS once, in
    both shots (a tokenizer without BOS, as Qwen's, gets none). Prompt and completion follow each other directly in
    TRL's text columns and stand apart by a blank line in Alpaca columns; the contents of messages are joined by blank
    lines. No EOS stands between candidate and anchor, not even one that the row's own text ends in: it tells a base
    model that the document is over. Of a row of text alone all tokens are scored; but for the first one without BOS,
    which has no context when it stands alone.

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
        self._separator = encode(tokenizer, SEPARATOR)

    def describe(self) -> dict[str, str]:
        """Return the name."""
        return {"template": self.name}

    def zero_shot(self, anchor: Row) -> Segment:
        """Return BOS, prompt, completion, EOS."""
        prompt, completion = self._pieces(anchor)
        context = [*self._bos, *prompt]
        return checked(Segment([*context, *self._closed(completion)], len(context) + self._without_context(anchor)))

    def one_shot(self, candidate: Row, anchor: Row) -> Segment:
        """Return BOS, candidate, blank line, prompt, completion, EOS."""
        shown_prompt, shown_completion = self._pieces(candidate)
        prompt, completion = self._pieces(anchor)
        shown_completion = without_eos(self._tokenizer, shown_completion)
        if not shown_completion:
            raise UnusableRowError("empty_completion")
        context = [*self._bos, *shown_prompt, *shown_completion, *self._separator, *prompt]
        return checked(Segment([*context, *self._closed(completion)], len(context) + self._without_context(anchor)))

    def boundary_is_safe(self, boundary: list[int]) -> bool:
        """Return True: candidate and anchor are tokenized apart."""
        return True

    def _pieces(self, row: Row) -> tuple[list[int], list[int]]:
        separator = encode(self._tokenizer, _row_separator(row))
        completion = self._encode_part(row.completion)
        if not completion:
            raise UnusableRowError("empty_completion")
        return self._encode_part(row.prompt) + separator, completion

    def _without_context(self, anchor: Row) -> int:
        """Tokens of the completion that nothing stands before in the zero-shot sequence."""
        return int(anchor.prompt == "" and not self._bos)

    def _encode_part(self, part: str | list[Message]) -> list[int]:
        if isinstance(part, str):
            return encode(self._tokenizer, part)
        ids = encode(self._tokenizer, content_text(part[0]))
        for message in part[1:]:
            ids += self._separator + encode(self._tokenizer, content_text(message))
        return ids

    def _closed(self, completion: list[int]) -> list[int]:
        eos = self._tokenizer.eos_token_id
        return completion if completion[-1] == eos else [*completion, eos]


class NuggetsTemplate:
    r"""The reference implementation to the letter (github.com/pldlgb/nuggets).

    `Instruction:\n...\nInput:\n...\nResponse:\n...`; BOS before the candidate only; no separator and no EOS behind it;
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
        return checked(Segment(ids[:NUGGETS_MAX_ANCHOR_TOKENS], start))

    def cuts(self, anchor: Row) -> bool:
        """Whether the anchor is longer than 200 tokens."""
        return len(self._uncut(anchor)[0]) > NUGGETS_MAX_ANCHOR_TOKENS

    def one_shot(self, candidate: Row, anchor: Row) -> Segment:
        """Return BOS, the whole candidate, and the anchor as in `zero_shot`."""
        shown = _nuggets_prompt(candidate) + _nuggets_completion(candidate)
        prefix = [self._tokenizer.bos_token_id, *without_eos(self._tokenizer, encode(self._tokenizer, shown))]
        anchor_segment = self.zero_shot(anchor)
        return Segment([*prefix, *anchor_segment.ids], len(prefix) + anchor_segment.start)

    def boundary_is_safe(self, boundary: list[int]) -> bool:
        """Return True: candidate and anchor are tokenized apart."""
        return True

    def _uncut(self, row: Row) -> tuple[list[int], int]:
        prompt = _nuggets_prompt(row)
        ids = encode(self._tokenizer, prompt + _nuggets_completion(row))
        return ids, len(encode(self._tokenizer, prompt))


def resolve_template(name: str, *, has_chat_template: bool, row_format: str, is_conversational: bool = False) -> str:
    """Return the template that `auto` stands for; any other name comes back as it is.

    `auto` is `chat` for conversations and Alpaca columns if the tokenizer has a chat template, `tokens` for rows that
    are tokenized already, and else `plain`: TRL trains on the text in its own columns without a chat template.

    Args:
        name: name of a template, or `auto`.
        has_chat_template: whether the tokenizer has a chat template.
        row_format: format of the rows, as `Pool.format` names it.
        is_conversational: whether the rows are made of messages.

    Example:
        >>> resolve_template("auto", has_chat_template=True, row_format="alpaca")
        'chat'
    """
    if name != "auto":
        return name
    if row_format == "tokenized":
        return "tokens"
    if has_chat_template and (is_conversational or row_format == "alpaca"):
        return "chat"
    return "plain"


def resolve_pool_template(name: str, pool: Pool, has_chat_template: bool) -> str:
    """Return the template that `auto` stands for with the rows of this pool."""
    return resolve_template(
        name,
        has_chat_template=has_chat_template,
        row_format=pool.format,
        is_conversational=pool.is_conversational,
    )


def resolve_alpaca_template(name: str, chat_template: str | None) -> str:
    """Return the template that `auto` stands for with rows that have Alpaca columns.

    Args:
        name: name of a template, or `auto`.
        chat_template: Jinja text of the tokenizer's chat template, if there is one.
    """
    return resolve_template(name, has_chat_template=bool(chat_template), row_format="alpaca")


def make_template(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    pool: Pool,
    *anchors: Pool,
    training_chat_template: str | None = None,
) -> Template:
    """Build the template called `name` (`auto` looks at tokenizer and pool).

    Args:
        name: `auto`, `chat`, `plain` or `nuggets`.
        tokenizer: renders and tokenizes.
        pool: the candidates.
        anchors: the anchor sets, where they do not come from the pool.
        training_chat_template: TRL's, with `{% generation %}`, where SFTConfig's `assistant_only_loss` is on: all
            that an anchor's assistant says is scored. In the completion alone, where TRL puts loss on the pool's
            completions alone.

    Raises:
        ValueError: if tokenizer or rows lack what the template needs.
    """
    if training_chat_template is not None:
        _check_assistant_only_loss(name, pool)
    pools = [pool, *anchors]
    if "tokenized" in [p.format for p in pools]:
        _check_tokenized(name, pools)
        return TokensTemplate(tokenizer)
    resolved = resolve_pool_template(name, pool, has_chat_template=bool(tokenizer.chat_template))
    if resolved == "plain":
        return PlainTemplate(tokenizer)
    text_only = [p.name for p in pools if p.is_text_only]
    if text_only:
        raise ValueError(
            f"`{text_only[0]}` has rows of text alone, but `template={resolved!r}`"
            + (" (which `auto` stands for here)" if name == "auto" else "")
            + " needs a prompt and a completion. Use `template='plain'`; or give rows with both (with "
            "`formatting_func`: name the `response_field`)."
        )
    if resolved == "nuggets":
        return NuggetsTemplate(tokenizer)
    completion_only = pool.completion_only and pool.format in ("prompt_completion", "alpaca")
    return ChatTemplate(tokenizer, training_chat_template, completion_only)


def _check_assistant_only_loss(name: str, pool: Pool) -> None:
    """Refuse what TRL refuses, ShareGPT included: it looks at the rows before it converts them.

    Rows with Alpaca columns are given to it as conversations under `chat`. Of rows that are tokenized already it looks
    at the columns beside.
    """
    converted = pool.format == "alpaca" and name in ("auto", "chat")
    beside = pool.format == "tokenized" and pool.has_messages
    if converted or beside or (pool.is_conversational and pool.format != "sharegpt"):
        return
    raise ValueError(
        f"`assistant_only_loss=True`, but the rows of `{pool.name}` (format {pool.format}) are not conversational "
        f"under `template={name!r}`. Give rows with `messages` (from ShareGPT's: "
        "`dataset.map(trl.maybe_convert_to_chatml, remove_columns='conversations')`), or turn `assistant_only_loss` "
        "(SFTConfig) off."
    )


def _check_tokenized(name: str, pools: list[Pool]) -> None:
    formats = {p.name: p.format for p in pools}
    if set(formats.values()) != {"tokenized"}:
        raise ValueError(
            f"Pool and anchors must both be tokenized already or neither, got {formats}: token ids and text cannot be "
            f"joined. Give both with `input_ids`, or both as text or messages.{pools[0].why_tokenized}"
        )
    if name != "auto":
        raise ValueError(
            f"`template={name!r}` renders text, but `{pools[0].name}` is tokenized already: its rows are joined as "
            "they are. Leave `template` at 'auto', or give text or messages."
        )


def train_columns(template_name: str, row: Row) -> dict[str, str | list[Message]]:
    """Give a row as TRL's `prompt` and `completion`, so that training sees what was scored under that template.

    `chat` gives lists of messages, which TRL renders with the chat template; the others give text, to which TRL adds
    EOS. Meant for rows with Alpaca columns, which TRL does not know.
    """
    if template_name == "chat":
        prompt, completion = conversation(row)
        return {"prompt": prompt, "completion": completion}
    if template_name == "plain":
        return {"prompt": joined_text(row.prompt) + _row_separator(row), "completion": joined_text(row.completion)}
    return {"prompt": _nuggets_prompt(row), "completion": _nuggets_completion(row)}


def _nuggets_prompt(row: Row) -> str:
    instruction, extra = row.alpaca or (joined_text(row.prompt).strip(), "")
    return f"Instruction:\n{instruction}\n" + (f"Input:\n{extra}\n" if extra else "") + "Response:\n"


def _nuggets_completion(row: Row) -> str:
    completion = joined_text(row.completion).strip()
    if not completion:
        raise UnusableRowError("empty_completion")  # a tool call alone
    return completion


def _row_separator(row: Row) -> str:
    return SEPARATOR if row.is_conversational else row.separator
