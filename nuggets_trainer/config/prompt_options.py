"""How much of the dataset is the pool, and how its rows become prompts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from nuggets_trainer.config.checks import check_choice, check_int, check_string
from nuggets_trainer.config.column_mapping import ColumnMapping, read_column_mapping
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
    columns: list[str] | None | dict[str, Any] | str = field(  # noqa: RUF036 - TRL's parser takes the type before None
        default=None,
        metadata={
            "help": "Columns of the rows by their standard names, for scoring and training alike: words such as "
            "`prompt=question completion=answer`, in YAML and Python also a mapping. Standard names are `prompt`, "
            "`completion`, `messages`, `system`, `text`, `instruction`, `input`, `output` and `tools`; inside "
            "messages `role` and `content`; roles are `role.user=customer,client`, `role.assistant`, `role.system` "
            "and `role.tool`. `instruction` and `output` are written with the chat template, or with a blank line "
            "between them; `prompt` and `completion` are joined as they are, as TRL does. Anchors and evaluation "
            "rows with these columns are read in the same way. Default: the columns have standard names."
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

    @property
    def column_mapping(self) -> ColumnMapping | None:
        """The mapping of `columns`, read; None without one."""
        return read_column_mapping(self.columns)

    def check(self) -> None:
        """Refuse values outside their range, and columns that cannot be mapped."""
        read_column_mapping(self.columns)
        check_choice("template", self.template, TEMPLATES)
        check_string("response_field", self.response_field)
        if self.pool_size is not None:
            check_int("pool_size", self.pool_size, minimum=1)
