"""Rows with Alpaca columns as TRL takes them: `prompt` and `completion`. Knows no model and no scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import AutoTokenizer

from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.read_row import read_row
from nuggets_trainer.data.row import UnusableRowError
from nuggets_trainer.prompts.templates import resolve_alpaca_template, train_columns

if TYPE_CHECKING:
    from datasets import Dataset


def first_row_in_trl_columns(arguments: dict[str, Any], template_name: str, pool: Pool) -> Dataset:
    """Give one row of a pool with Alpaca columns as TRL would be shown it.

    TRL looks at the first row of the training set to decide what to put loss on, before it has anything else.

    Args:
        arguments: of `SFTTrainer.__init__`.
        template_name: name of a template, or `auto`.
        pool: rows with Alpaca columns.

    Raises:
        ValueError: if no row of the pool is usable.
    """
    args, tokenizer = arguments.get("args"), arguments.get("processing_class")
    if tokenizer is None:
        model = arguments["model"]
        name = model if isinstance(model, str) else model.config._name_or_path
        tokenizer = AutoTokenizer.from_pretrained(name, **hub_options(args))
    chat_template = getattr(args, "chat_template_path", None) or tokenizer.chat_template
    _, dropped = pool.read_keys()
    first = [i for i in range(len(pool)) if i not in dropped][:1]
    if not first:
        raise ValueError(f"No row of `train_dataset` is usable: {sorted(set(dropped.values()))}.")
    return alpaca_to_trl(pool.dataset.select(first), resolve_alpaca_template(template_name, chat_template))


def hub_options(args: Any) -> dict[str, Any]:
    """Revision and trust in remote code with which TRL loads a model by name."""
    options = {"trust_remote_code": getattr(args, "trust_remote_code", False)}  # not in older versions of TRL
    own = getattr(args, "model_init_kwargs", None) or {}
    return options | {name: own[name] for name in ("revision", "trust_remote_code") if own.get(name) is not None}


def is_alpaca(column_names: list[str] | None, text_field: str = "text") -> bool:
    """Whether rows have Alpaca columns and none of TRL's, of which `dataset_text_field` is one."""
    names = set(column_names or ())
    trained_on = {"input_ids", "prompt", "messages", "conversations", text_field}
    return names >= {"instruction", "output"} and not trained_on & names


def alpaca_to_trl(dataset: Dataset, template_name: str) -> Dataset:
    """Replace Alpaca columns by TRL's `prompt` and `completion`; other columns stay.

    Args:
        dataset: rows with `instruction`, `output` and perhaps `input`.
        template_name: `chat`, `plain` or `nuggets`: how the rows will look in training.

    Raises:
        ValueError: on an unusable row, e.g. with an empty output.
    """

    def convert(record: dict[str, Any], i: int) -> dict[str, Any]:
        try:
            return train_columns(template_name, read_row(record, "alpaca"))
        except UnusableRowError as error:
            raise ValueError(f"Row {i} (Alpaca columns) cannot be trained or evaluated on: {error}.") from error

    removed = [name for name in ("instruction", "input", "output") if name in dataset.column_names]
    return dataset.map(convert, with_indices=True, remove_columns=removed)
