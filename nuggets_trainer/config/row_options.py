"""The options of training that decide which tokens a row has. Scoring must be given the same ones as training.

Names and defaults are those of `trl.SFTConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar


@dataclass
class RowOptions:
    """How training reads and renders a row; the fields of `trl.SFTConfig` with the same names.

    Example:
        >>> RowOptions(chat_template_path="chat.jinja").dataset_text_field
        'text'
    """

    title: ClassVar[str] = "how training reads and renders the rows (names and defaults of trl.SFTConfig)"

    dataset_text_field: str = field(
        default="text",
        metadata={
            "help": "Column of rows that are whole texts. Rows that have it are read as text before Alpaca's columns "
            "are looked for: name another column where a pool has both."
        },
    )
    completion_only_loss: bool | None = field(
        default=None,
        metadata={
            "help": "Whether training puts loss on completions alone. Default: true for rows with a prompt and a "
            "completion."
        },
    )
    assistant_only_loss: bool = field(
        default=False,
        metadata={
            "help": "Whether training puts loss on what the assistant says alone: an anchor is then scored on what it "
            "says, in all turns."
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
