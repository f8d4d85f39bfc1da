"""`nuggets inspect`: how rows will be read; a thin layer over `inspect_pool`. At most a tokenizer is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from trl import TrlParser

from nuggets_trainer.commands import EXIT_CODES, description
from nuggets_trainer.commands.arguments import (
    TRAINING_ONLY,
    InspectArguments,
    OutputArguments,
    ScorerArguments,
    parse_arguments,
    training_parsers,
)
from nuggets_trainer.commands.inputs import check_places, read_rows
from nuggets_trainer.commands.output import stdout_kept_for_result, write_result
from nuggets_trainer.commands.parser import make_parser, with_first_word
from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.config.places import PoolArguments
from nuggets_trainer.config.row_options import RowOptions

if TYPE_CHECKING:
    from nuggets_trainer.inspection.inspection import Inspection

USED = {"model_name_or_path", "model_revision", "trust_remote_code"}
USED |= {"anchors", "anchor_columns", "columns", "template", "pool_size", "scorer_model"}
USED |= {"deduplicate", "decontaminate"}
# All other options of `nuggets score` are accepted, but not listed in `--help`.
IGNORED_BY_INSPECT = {field.name for options in (ScorerArguments, NuggetsConfig) for field in fields(options)} - USED
USAGE = "nuggets inspect D [--model_name_or_path M] [--anchors A] [--columns NAME=COLUMN ...] [options]"
EPILOG = f"""examples:
  nuggets inspect pool.jsonl
  nuggets inspect pool.jsonl --columns instruction=question output=answer --model_name_or_path Qwen/Qwen3-0.6B
  nuggets inspect nuggets-demo/pool --model_name_or_path nuggets-demo/model --anchors nuggets-demo/anchors --num_rows 3
  nuggets inspect --config my.yaml --indices 0 17 4021
  nuggets inspect pool.jsonl --json

Without a model, the command shows the rows as they are read. With a model, it shows them as the model sees them before
an anchor; it loads the tokenizer and no weights. It takes all options of `nuggets score`.

{EXIT_CODES}"""


def make_inspect_parser() -> TrlParser:
    """Make the parser of the command."""
    dataclasses = (InspectArguments, PoolArguments, RowOptions, ScorerArguments, OutputArguments, NuggetsConfig)
    text = description("inspect")
    return make_parser(dataclasses, "nuggets inspect", text, USAGE, EPILOG, TRAINING_ONLY, IGNORED_BY_INSPECT)


def parse(argv: Sequence[str]) -> tuple[Any, ...]:
    """Read the command line; the rows may be its first word."""
    argv = with_first_word(argv, "--dataset_name")
    parsed = parse_arguments(make_inspect_parser(), argv, training_parsers)
    if parsed[1].dataset_name is None:
        raise ValueError("`nuggets inspect` needs rows, but none were given. Name them: `nuggets inspect pool.jsonl`.")
    if parsed[0].num_rows < 1:
        raise ValueError(f"`num_rows` must be at least 1, got {parsed[0].num_rows}.")
    return parsed


def run(
    shown: InspectArguments,
    rows: PoolArguments,
    row_options: RowOptions,
    scorer: ScorerArguments,
    output: OutputArguments,
    config: NuggetsConfig,
) -> None:
    """Inspect the rows and print what was found.

    Raises:
        ValueError: if scoring these rows would fail; raised after everything else is printed.
    """
    check_places(rows, scorer, config)
    from nuggets_trainer.inspection.text import print_text

    with stdout_kept_for_result() as stdout:
        found = _inspect(shown, rows, row_options, scorer, config)
        if output.json:
            write_result(stdout, found.to_dict(), "", as_json=True)
        else:
            print_text(found, stdout)
    if found.problem is not None:
        raise ValueError(found.problem)


def _inspect(
    shown: InspectArguments,
    rows: PoolArguments,
    row_options: RowOptions,
    scorer: ScorerArguments,
    config: NuggetsConfig,
) -> Inspection:
    from nuggets_trainer.inspection.inspect_pool import inspect_pool

    name = config.scorer_model or scorer.model_name_or_path
    tokenizer, context, marked = None, None, None
    if name is not None:
        from nuggets_trainer.engine.loading import load_scorer_tokenizer, read_model_config
        from nuggets_trainer.engine.model import context_length
        from nuggets_trainer.pipeline.rows import scorer_tokenizer
        from nuggets_trainer.training.rows import find_training_chat_template

        own: dict[str, Any] = {"revision": scorer.model_revision, "trust_remote_code": scorer.trust_remote_code}
        if config.scorer_model is not None:
            own = {key: value for key, value in config.scorer_kwargs.items() if key in own}
        tokenizer = load_scorer_tokenizer(name, **own)
        context = context_length(read_model_config(name, **own))
        marked = find_training_chat_template(scorer_tokenizer(tokenizer, config, row_options), row_options)
    return inspect_pool(
        tokenizer,
        read_rows(rows),
        config=config,
        name=rows.dataset_name,
        num_rows=shown.num_rows,
        indices=shown.indices,
        row_options=row_options,
        training_chat_template=marked,
        context=context,
    )
