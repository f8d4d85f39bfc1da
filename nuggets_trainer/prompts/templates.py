"""The templates, by which rows become token ids, and which of them a pool and its anchors get.

A template renders an anchor alone (zero-shot) and behind a candidate (one-shot). These renderings define what is
scored; `shared_prefix.py` splits them so that the candidate is computed once.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import Row
from nuggets_trainer.prompts.chat import ChatTemplate
from nuggets_trainer.prompts.nuggets import NuggetsTemplate
from nuggets_trainer.prompts.plain import PlainTemplate
from nuggets_trainer.prompts.pretokenized import TokensTemplate
from nuggets_trainer.prompts.row_alone import RowAlone
from nuggets_trainer.prompts.segment import Segment

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


class Template(Protocol):
    """How rows become token ids."""

    name: str

    def boundary_is_safe(self, boundary: list[int]) -> bool:
        """Whether the tokens behind a boundary cannot depend on the candidate before it.

        Args:
            boundary: ids between candidate and anchor, the same for every candidate.
        """

    def describe(self) -> dict[str, str]:
        """Return what can change a score, for the fingerprint."""

    def zero_shot(self, anchor: Row) -> Segment:
        """Render the anchor alone."""

    def one_shot(self, candidate: Row, anchor: Row) -> Segment:
        """Render the candidate and, behind it, the anchor, whose completion is scored."""

    def few_shot(self, examples: Sequence[Row], row: Row) -> Segment:
        """Render several examples and, behind them, a whole row, whose completion is scored as in `row_alone`."""

    def row_alone(self, row: Row) -> RowAlone:
        """Render a whole row alone, and say what stands before its completion where its prompt is left out."""

    def num_tokens(self, row: Row) -> int:
        """Count the tokens of a whole row alone, prompt and completion; a row may have some that cannot be scored."""


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


def resolve_alpaca_template(name: str, has_chat_template: bool) -> str:
    """Return the template that `auto` stands for with rows that have Alpaca columns.

    Args:
        name: name of a template, or `auto`.
        has_chat_template: whether the tokenizer has a chat template.
    """
    return resolve_template(name, has_chat_template=has_chat_template, row_format="alpaca")


def make_template(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    pool: Pool,
    *anchors: Pool,
    training_chat_template: str | None = None,
) -> Template:
    """Build a template for a pool and its anchors.

    Args:
        name: `auto`, `chat`, `plain` or `nuggets`.
        tokenizer: tokenizer that renders and tokenizes the rows.
        pool: candidates.
        anchors: anchor sets; none if anchors come from the pool.
        training_chat_template: TRL's chat template with `{% generation %}` around what the assistant says, if
            SFTConfig's `assistant_only_loss` is on; None if it is off. With it, all that an anchor's assistant says is
            scored, or its completion alone if TRL puts loss on the pool's completions alone.

    Raises:
        ValueError: if tokenizer or rows lack what the template needs.
    """
    if training_chat_template is not None:
        _check_assistant_only_loss(name, pool)
    pools = [pool, *anchors]
    if any(one.format == "tokenized" for one in pools):
        _check_tokenized(name, pools)
        return TokensTemplate(tokenizer)
    resolved = resolve_pool_template(name, pool, has_chat_template=bool(tokenizer.chat_template))
    if resolved == "plain":
        if name == "auto" and pool.is_conversational:
            _log_no_chat_template(pool.name)
        return PlainTemplate(tokenizer)
    _check_has_prompts(name, resolved, pools)
    if resolved == "nuggets":
        return NuggetsTemplate(tokenizer)
    completion_only = pool.completion_only and pool.format in ("prompt_completion", "alpaca")
    return ChatTemplate(tokenizer, training_chat_template, completion_only)


@functools.cache  # a run makes the template several times; one message is enough
def _log_no_chat_template(name: str) -> None:
    logger.info(
        "`%s` has messages, but the tokenizer has no chat template: they are scored under the template `plain`, their "
        "texts joined by blank lines.",
        name,
    )


def _check_has_prompts(name: str, resolved: str, pools: list[Pool]) -> None:
    for one in pools:
        if one.is_text_only:
            chosen = " (which `auto` stands for here)" if name == "auto" else ""
            raise ValueError(
                f"`template={resolved!r}`{chosen} needs rows with a prompt and a completion, but `{one.name}` has "
                "rows of text alone. Use `template='plain'`, or give rows with both (with `formatting_func`: name "
                "the `response_field`)."
            )


def _check_assistant_only_loss(name: str, pool: Pool) -> None:
    """Refuse the rows that TRL refuses, ShareGPT's included: it looks at the rows before it converts them.

    TRL is given rows with Alpaca columns as conversations under `chat`. If rows are tokenized already, it looks at
    their other columns.
    """
    given_as_chat = pool.format == "alpaca" and name in ("auto", "chat")
    tokenized_from_messages = pool.format == "tokenized" and pool.has_messages
    converted_later = pool.format == "sharegpt"
    if given_as_chat or tokenized_from_messages or (pool.is_conversational and not converted_later):
        return
    raise ValueError(
        f"`assistant_only_loss=True` needs conversations, but the rows of `{pool.name}` (format {pool.format}) are "
        f"none under `template={name!r}`. Give rows with `messages` (from ShareGPT's: "
        "`dataset.map(trl.maybe_convert_to_chatml, remove_columns='conversations')`), or turn `assistant_only_loss` "
        "(SFTConfig) off."
    )


def _check_tokenized(name: str, pools: list[Pool]) -> None:
    formats = {one.name: one.format for one in pools}
    if set(formats.values()) != {"tokenized"}:
        raise ValueError(
            f"Pool and anchors must both be tokenized already or neither, got {formats}: token ids and text cannot be "
            f"joined. Give both with `input_ids`, or both as text or messages.{pools[0].why_tokenized}"
        )
    if name != "auto":
        raise ValueError(
            f"`template={name!r}` renders text, but `{pools[0].name}` is tokenized already, and its rows are joined "
            "as they are. Leave `template` at 'auto', or give text or messages."
        )
