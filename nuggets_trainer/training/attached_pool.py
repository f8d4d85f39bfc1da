"""The pool of a trainer that is already built: its raw columns if these were tokenized, otherwise its token ids."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from nuggets_trainer.data.dataset import check_dataset
from nuggets_trainer.data.formats import fitting_formats
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.read_row import CONVERSATION_COLUMNS, differs_in_trl
from nuggets_trainer.data.row import SEPARATOR, Row, UnusableRowError, joined_text
from nuggets_trainer.prompts.chat import ChatTemplate
from nuggets_trainer.prompts.render_chat import ChatRenderer
from nuggets_trainer.prompts.templates import resolve_pool_template
from nuggets_trainer.prompts.tokenize import dropping_what_cannot_be_tokenized, token_ids
from nuggets_trainer.prompts.trl_columns import is_in_another_form
from nuggets_trainer.training.rows import text_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase, Trainer

logger = logging.getLogger(__name__)


def attached_pool(trainer: Trainer) -> Pool:
    """Read the `train_dataset` of a trainer as a pool.

    Args:
        trainer: `Trainer` with a tokenizer.

    Raises:
        TypeError, ValueError: if `Pool` does not accept the rows.
    """
    tokenizer = text_tokenizer(trainer.processing_class)
    return pool_as_tokenized(
        trainer.train_dataset,
        tokenizer,
        getattr(trainer, "chat_template", None),
        text_field=getattr(trainer.args, "dataset_text_field", "text"),
        completion_only_loss=getattr(trainer, "completion_only_loss", None),
    )


def pool_as_tokenized(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, training_chat_template: str | None = None, **options: Any
) -> Pool:
    """Read a dataset that has token ids, such as `SFTTrainer` leaves, as a pool.

    `SFTTrainer` keeps the raw columns next to the `input_ids` that it makes of them. These columns are read if they
    really are what was tokenized: the first row that can be rendered from them must have the tokens in `input_ids`, up
    to truncation and EOS. Otherwise the token ids are read.

    Args:
        dataset: rows that a trainer trains on.
        tokenizer: tokenizer of the trainer.
        training_chat_template: chat template that conversations were rendered with; None if it was the tokenizer's.
        options: `text_field` and `completion_only_loss`, as in `Pool`.

    Raises:
        TypeError, ValueError: if `Pool` does not accept the rows.
    """
    options["eos_token"] = tokenizer.eos_token
    columns = check_dataset(dataset, "train_dataset").column_names
    fitting = fitting_formats(columns, options.get("text_field", "text"))
    raw_formats = [row_format for row_format in fitting if row_format != "tokenized"]
    has_both = bool(raw_formats) and "tokenized" in fitting
    if not has_both:
        return Pool(dataset, **options)
    try:
        raw = Pool(dataset, row_format=raw_formats[0], **options)
        difference = _first_difference(raw, tokenizer, training_chat_template)
    except ValueError as error:  # not a format that TRL could have tokenized
        difference = str(error)
    else:
        if difference is None:
            return raw
    pool = Pool(dataset, row_format="tokenized", **options)
    pool.why_tokenized = (
        f" `{pool.name}` is read as token ids, because its other columns (format {raw_formats[0]!r}) are not what was "
        f"tokenized: {difference}."
    )
    logger.info("%s", pool.why_tokenized.strip())
    record = pool.record(0)
    if differs_in_trl(record, raw_formats[0]):
        logger.warning(
            "`%s` has ShareGPT's roles, such as `human` and `gpt`. TRL renders them as they are, and hardly any chat "
            "template knows them: look at what the trainer trains on. Use `SelectedSFTTrainer`, which renames them, "
            "or pass `nuggets_trainer.prompts.trl_columns.in_trl_columns(dataset, 'chat')` to your trainer.",
            pool.name,
        )
    if raw_formats[0] in CONVERSATION_COLUMNS and tokenizer.chat_template:
        as_content = ChatRenderer(tokenizer, training_chat_template).as_content
        if is_in_another_form(record, raw_formats[0], as_content):
            logger.warning(
                "The contents of `%s` have a form that the chat template does not show (a list of parts, or text "
                "where it needs parts): look at what the trainer trains on. Use `SelectedSFTTrainer`, which gives "
                "them the other form, or pass `nuggets_trainer.prompts.trl_columns.in_trl_columns(dataset, 'chat', "
                "tokenizer=tokenizer)` to your trainer.",
                pool.name,
            )
    return pool


def _first_difference(raw: Pool, tokenizer: PreTrainedTokenizerBase, training_chat_template: str | None) -> str | None:
    """Compare the first row that can be rendered with its `input_ids`; return what differs, or None."""
    chat = None
    if resolve_pool_template("auto", raw, has_chat_template=bool(tokenizer.chat_template)) == "chat":
        chat = ChatTemplate(tokenizer, training_chat_template)
    for i in range(len(raw)):
        try:
            rendered = _text_ids(raw[i], tokenizer) if chat is None else chat.zero_shot(raw[i]).ids
        except UnusableRowError:
            continue
        ids = _ids_without_padding(raw.record(i))
        return None if _is_cut_of(ids, rendered, tokenizer.eos_token_id) else f"row {i} has other token ids"
    return "no row can be rendered"


def _ids_without_padding(record: dict[str, Any]) -> list[int]:
    ids = record["input_ids"]
    mask = record.get("attention_mask")
    if not mask:
        return list(ids)
    return [token for token, is_shown in zip(ids, mask, strict=True) if is_shown]


def _text_ids(row: Row, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokenize the whole text of a row, with the special tokens that the tokenizer adds, as TRL does."""
    separator = SEPARATOR if row.is_conversational else row.separator
    text = joined_text(row.prompt) + separator + joined_text(row.completion)
    with dropping_what_cannot_be_tokenized():
        return token_ids(tokenizer, text)


def _is_cut_of(ids: list[int], rendered: list[int], eos: int | None) -> bool:
    """Check whether token ids are the rendered ones, with or without EOS, perhaps cut at one end."""
    if not ids:
        return False
    wholes = (rendered, [*rendered, eos])
    return any(ids in (whole[: len(ids)], whole[-len(ids) :]) for whole in wholes)
