"""TRL's options and changes of rows and chat templates, for programs that score outside of its trainer."""

from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoTokenizer
from trl.chat_template_utils import get_training_chat_template

from nuggets_trainer.config.row_options import RowOptions
from nuggets_trainer.prompts.templates import resolve_alpaca_template
from nuggets_trainer.prompts.trl_columns import in_trl_columns

if TYPE_CHECKING:
    from datasets import Dataset

GENERATION_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")


def row_options(args: Any) -> RowOptions:
    """Collect the training arguments that decide which tokens a row has.

    Args:
        args: training arguments. What they lack (an `SFTConfig` has all, None has nothing) gets TRL's default.

    Example:
        >>> row_options(None) == RowOptions()
        True
    """
    names = [field.name for field in dataclasses.fields(RowOptions)]
    return RowOptions(**{name: getattr(args, name) for name in names if hasattr(args, name)})


def text_tokenizer(processing_class: Any) -> Any:
    """Return the tokenizer of text: a trainer may have a processor that holds it."""
    return getattr(processing_class, "tokenizer", processing_class)


def find_training_chat_template(tokenizer: Any, options: RowOptions) -> str | None:
    """Find the chat template that marks what the assistant says, as `SFTTrainer` does; None if it needs no marks.

    Args:
        tokenizer: tokenizer with the chat template of training.
        options: row options; `assistant_only_loss` asks for such a template.

    Raises:
        ValueError: if there is no chat template, or if TRL has no marked version of it.
    """
    if not options.assistant_only_loss:
        return None
    own: str | None = tokenizer.chat_template
    if not own:
        raise ValueError(
            "`assistant_only_loss` needs a tokenizer with a chat template, but this tokenizer has none. Set "
            "`chat_template_path`, or turn `assistant_only_loss` off."
        )
    if GENERATION_MARKER.search(own):
        return own
    found: str = get_training_chat_template(tokenizer)
    return found


def find_training_dtype(bf16: bool | None, fp16: bool) -> torch.dtype | None:
    """Find the dtype that training autocasts to, which `score_dtype="auto"` follows; None without mixed precision.

    Args:
        bf16: option of SFTConfig; None is False here, because SFTConfig has replaced it by its default.
        fp16: option of SFTConfig.

    Raises:
        ValueError: if both are true.
    """
    if bf16 and fp16:
        raise ValueError("`bf16` and `fp16` must not both be true. Keep one.")
    if bf16:
        return torch.bfloat16
    return torch.float16 if fp16 else None


def trains_with_chat_template(chat_template: str | None, args: Any) -> bool:
    """Whether TRL trains with a chat template.

    With `chat_template_path` it takes one from a Jinja file, or from another tokenizer, and fails if there is none.

    Args:
        chat_template: chat template of the tokenizer as it was loaded; None if it has none.
        args: `SFTConfig`, or None.
    """
    return bool(chat_template) or getattr(args, "chat_template_path", None) is not None


def rows_for_trl(rows: Dataset, template: str, args: Any, tokenizer: Any) -> Dataset:
    """Convert rows as `SelectedSFTTrainer` does, so that TRL trains on what was scored.

    Args:
        rows: rows of a pool, or held-out rows.
        template: name of the template, as in `NuggetsConfig`.
        args: `SFTConfig`; a chat template that it names replaces the tokenizer's.
        tokenizer: tokenizer of the model.

    Raises:
        ValueError: if a row that needs to be converted is unusable.
    """
    tokenizer = _with_chat_template_of(args, tokenizer)
    resolved = resolve_alpaca_template(template, bool(tokenizer.chat_template))
    marked = find_training_chat_template(tokenizer, row_options(args))
    return in_trl_columns(rows, resolved, args.dataset_text_field, tokenizer, marked)


def _with_chat_template_of(args: Any, tokenizer: Any) -> Any:
    """Give a copy of the tokenizer the chat template that TRL will give it: that of a file or of another tokenizer."""
    path = args.chat_template_path
    if path is None:
        return tokenizer
    tokenizer = copy.copy(tokenizer)
    if Path(path).is_file():
        tokenizer.chat_template = Path(path).read_text(encoding="utf-8")
    else:
        tokenizer.chat_template = AutoTokenizer.from_pretrained(path).chat_template
    return tokenizer
