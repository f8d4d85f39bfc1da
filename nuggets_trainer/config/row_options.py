"""How training reads and renders a row. Scoring needs the same options as training.

Names and defaults are those of `trl.SFTConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from nuggets_trainer.config.option_group import OptionGroup


@dataclass
class RowOptions(OptionGroup):
    """How training reads and renders a row; the fields of `trl.SFTConfig` with the same names.

    Example:
        >>> RowOptions(chat_template_path="chat.jinja").dataset_text_field
        'text'
    """

    title: ClassVar[str] = "how training reads and renders the rows (names and defaults of trl.SFTConfig)"

    dataset_text_field: str = field(
        default="text",
        metadata={
            "help": "Column that holds whole texts. Rows that have it are read as text, even if they have Alpaca's "
            "columns too: name another column where a pool has both."
        },
    )
    completion_only_loss: bool | None = field(
        default=None,
        metadata={
            "help": "Loss on completions alone, as in training. Default: true for rows with a prompt and a completion."
        },
    )
    assistant_only_loss: bool = field(
        default=False,
        metadata={
            "help": "Loss on the assistant's turns alone, as in training. An anchor is then scored on all of its "
            "assistant turns."
        },
    )
    chat_template_path: str | None = field(
        default=None,
        metadata={
            "help": "Jinja file (.jinja or .j2) with the chat template that takes the place of the tokenizer's."
        },
    )
    eos_token: str | None = field(
        default=None, metadata={"help": "Token that ends a completion. Default: that of the tokenizer."}
    )
