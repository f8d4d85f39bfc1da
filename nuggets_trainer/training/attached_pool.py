"""The pool of a trainer that is built already: its raw columns where these were tokenized, else the token ids."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from nuggets_trainer.data.dataset import check_dataset
from nuggets_trainer.data.formats import fitting_formats
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import SEPARATOR, Row, UnusableRowError, joined_text
from nuggets_trainer.prompts.chat import ChatTemplate
from nuggets_trainer.prompts.templates import resolve_pool_template
from nuggets_trainer.prompts.tokenize import dropping_what_cannot_be_tokenized

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase, Trainer

logger = logging.getLogger(__name__)


def attached_pool(trainer: Trainer) -> Pool:
    """Read the `train_dataset` of a trainer as a pool.

    Args:
        trainer: any `Trainer` with a tokenizer.

    Raises:
        TypeError, ValueError: as `Pool`.
    """
    tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
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
    """Read a dataset that was tokenized from its other columns, perhaps, as `SFTTrainer` leaves it.

    These are read if the first row that can be rendered from them is what `input_ids` holds, up to truncation and EOS.

    Args:
        dataset: what a trainer trains on.
        tokenizer: of the trainer.
        training_chat_template: what conversations were rendered with, instead of the tokenizer's own.
        options: `text_field` and `completion_only_loss` of `Pool`.

    Raises:
        TypeError, ValueError: as `Pool`.
    """
    options["eos_token"] = tokenizer.eos_token
    columns = check_dataset(dataset, "train_dataset").column_names
    fitting = fitting_formats(columns, options.get("text_field", "text"))
    others = [row_format for row_format in fitting if row_format != "tokenized"]
    if not others or fitting == others:
        return Pool(dataset, **options)
    try:
        raw = Pool(dataset, row_format=others[0], **options)
        differing = _first_difference(raw, tokenizer, training_chat_template)
    except ValueError as error:  # of another kind than TRL knows: they were not tokenized by it
        differing = str(error)
    else:
        if differing is None:
            return raw
    pool = Pool(dataset, row_format="tokenized", **options)
    pool.why_tokenized = (
        f" `{pool.name}` is read as token ids, because its other columns (format {others[0]!r}) are not what was "
        f"tokenized: {differing}."
    )
    logger.info("%s", pool.why_tokenized.strip())
    return pool


def _first_difference(raw: Pool, tokenizer: PreTrainedTokenizerBase, training_chat_template: str | None) -> str | None:
    """Say how the first row that can be rendered differs from its `input_ids`; None where it does not."""
    chat = None
    if resolve_pool_template("auto", raw, has_chat_template=bool(tokenizer.chat_template)) == "chat":
        chat = ChatTemplate(tokenizer, training_chat_template)
    for i in range(len(raw)):
        try:
            rendered = _text_ids(raw[i], tokenizer) if chat is None else chat.zero_shot(raw[i]).ids
        except UnusableRowError:
            continue
        record = raw.record(i)
        shown = record.get("attention_mask") or [1] * len(record["input_ids"])
        ids = [token for token, is_shown in zip(record["input_ids"], shown, strict=True) if is_shown]
        return None if _is_cut_of(ids, rendered, tokenizer.eos_token_id) else f"row {i} gives other ids"
    return "no row can be rendered"


def _text_ids(row: Row, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokenize a row's text whole, with what the tokenizer adds by itself, as TRL does."""
    separator = SEPARATOR if row.is_conversational else row.separator
    with dropping_what_cannot_be_tokenized():
        return list(tokenizer(text=joined_text(row.prompt) + separator + joined_text(row.completion))["input_ids"])


def _is_cut_of(ids: list[int], rendered: list[int], eos: int | None) -> bool:
    """Whether ids are these, or these and EOS, perhaps cut at one end."""
    wholes = (rendered, [*rendered, eos])
    return bool(ids) and any(ids in (whole[: len(ids)], whole[-len(ids) :]) for whole in wholes)
