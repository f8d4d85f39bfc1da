"""Options of how training reads and renders a row, and of which rows are left out because they repeat others.

Scoring needs the same `RowOptions` as training. Their names and defaults are those of `trl.SFTConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from nuggets_trainer.config.checks import check_choice
from nuggets_trainer.config.option_group import OptionGroup
from nuggets_trainer.config.places import RowPlace, read_places

DEDUPLICATE = ("no", "exact", "near")


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


@dataclass
class OverlapOptions(OptionGroup):
    """Rows that are left out before anything is scored, because they repeat others or the questions of a test."""

    title: ClassVar[str] = "duplicates and questions of tests"

    deduplicate: str = field(
        default="exact",
        metadata={
            "help": "Rows that are left out because an earlier row says the same. `exact`: rows that are equal in all "
            "columns that are read. `near`: also rows that share at least 70%% of the sequences of three words (by "
            "MinHash), and at least 40%% of those of the completions. `no`: none. The log always gives the numbers of "
            "both kinds.",
            "choices": list(DEDUPLICATE),
        },
    )
    decontaminate: list[str] | None | str = field(  # noqa: RUF036 - TRL's parser takes the type before None
        default=None,
        metadata={
            "help": "Tests whose questions no row may hold: `alpaca_eval`, `mt_bench`, files, or datasets on the hub "
            '(with a split as JSON: {"path": "openai/gsm8k", "name": "main", "split": "test"}). A row is left out as '
            "`contaminated` if it shares 13 consecutive words with a question, holds a whole shorter question, or has "
            "70%% of a question's sequences of three words. `columns` applies to tests too. Default: no test."
        },
    )

    @property
    def tests(self) -> list[RowPlace]:
        """Places of the tests in `decontaminate`.

        Raises:
            ValueError: if a value names no place of rows.
        """
        values: Any = self.decontaminate
        if values is None:
            return []
        if not isinstance(values, list):
            values = [values]
        return [_place(value) for value in values]

    def check(self) -> None:
        """Refuse an unknown way to deduplicate, and tests that are not places."""
        check_choice("deduplicate", self.deduplicate, DEDUPLICATE)
        if not self.tests and self.decontaminate is not None:
            raise ValueError(
                "`decontaminate` must name at least one test, got an empty list. Name a test, or leave it out."
            )


def _place(value: Any) -> RowPlace:
    expected = "`decontaminate` must list tests, each a name or a mapping with `path`, `name` and `split`"
    try:
        named = read_places(value)
    except ValueError as error:
        raise ValueError(f"{expected}, got {value!r} ({error}).") from error
    if list(named) != [""]:
        raise ValueError(f"{expected}, got {value!r}.")
    return named[""]
