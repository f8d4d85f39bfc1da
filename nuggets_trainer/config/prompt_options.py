"""How much of the dataset is the pool, and how its rows become prompts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from nuggets_trainer.config.checks import check_choice, check_int, check_string
from nuggets_trainer.config.option_group import OptionGroup

TEMPLATES = ("auto", "chat", "plain", "nuggets")


@dataclass
class PromptOptions(OptionGroup):
    """Size of the pool, and the format of its prompts."""

    title: ClassVar[str] = "the pool and its prompts"

    template: str = field(
        default="auto",
        metadata={
            "help": "Format of the prompts. `chat`: the tokenizer's chat template, with the candidate as an earlier "
            "user/assistant turn. `plain`: texts that are tokenized apart and joined by a blank line. `nuggets`: the "
            "reference implementation to the letter (anchors cut at 200 tokens). `auto`: `chat` where the tokenizer "
            "has a chat template and the rows are conversational or have Alpaca columns, else `plain`.",
            "choices": list(TEMPLATES),
        },
    )
    response_field: str | None = field(
        default=None,
        metadata={
            "help": "Column that holds the response, with `formatting_func`. Text that the function writes alike with "
            "and without this column is the prompt; the rest is the completion. Default: the whole text is the "
            "completion."
        },
    )
    pool_size: int | None = field(
        default=None,
        metadata={
            "help": "Number of rows to take as the pool, from the first one on. An `IterableDataset` needs it, and so "
            "many of its rows go into memory. Default: all rows."
        },
    )

    def check(self) -> None:
        """Refuse values outside their range."""
        check_choice("template", self.template, TEMPLATES)
        check_string("response_field", self.response_field)
        if self.pool_size is not None:
            check_int("pool_size", self.pool_size, minimum=1)
