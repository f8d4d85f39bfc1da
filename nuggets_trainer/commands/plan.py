"""`nuggets plan`: how long scoring will take, measured on some seconds of it. A thin layer over `plan_pool`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trl import TrlParser

from nuggets_trainer.commands import EXIT_CODES, description
from nuggets_trainer.commands.arguments import (
    TRAINING_ONLY,
    OutputArguments,
    PlanArguments,
    ScorerArguments,
    parse_arguments,
    training_parsers,
)
from nuggets_trainer.commands.inputs import check_given, check_places, load, with_score_dir
from nuggets_trainer.commands.output import stdout_kept_for_result, write_result
from nuggets_trainer.commands.parser import make_parser, with_first_word
from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.config.places import PoolArguments
from nuggets_trainer.config.row_options import RowOptions

# Options of `nuggets score` that change nothing in a plan: accepted, but not listed in `--help`.
IGNORED_BY_PLAN = {"combine_anchor_sets", "group_quota", "signal_check", "stop_if_unreliable"}
USAGE = "nuggets plan D --model_name_or_path M [--score_dir S] [--config FILE] [options]"
EPILOG = f"""examples:
  nuggets plan --model_name_or_path nuggets-demo/model --dataset_name nuggets-demo/pool \\
      --anchors nuggets-demo/anchors --score_dir scores
  nuggets plan --config my.yaml --score_dir scores --price_per_hour 3.5 --json

The options are those of `nuggets score`, which reuses the pairs that were scored here. Use the same --num_processes
for both commands.

{EXIT_CODES}"""


def make_plan_parser() -> TrlParser:
    """Make the parser of the command."""
    dataclasses = (PoolArguments, RowOptions, ScorerArguments, PlanArguments, OutputArguments, NuggetsConfig)
    text = description("plan")
    return make_parser(dataclasses, "nuggets plan", text, USAGE, EPILOG, TRAINING_ONLY, IGNORED_BY_PLAN)


def parse(argv: Sequence[str]) -> tuple[Any, ...]:
    """Read the command line; the pool may be its first word."""
    argv = with_first_word(argv, "--dataset_name")
    parsed = parse_arguments(make_plan_parser(), argv, training_parsers)
    *others, config = parsed
    rows, _, scorer, plan, _ = others
    check_given("nuggets plan", rows, scorer, config)
    for name in ("measure_seconds", "price_per_hour"):
        value = getattr(plan, name)
        if value is not None and not value > 0:
            raise ValueError(f"`{name}` must be above 0, got {value}.")
    return (*others, with_score_dir(rows, scorer, config, argv))


def run(
    rows: PoolArguments,
    row_options: RowOptions,
    scorer: ScorerArguments,
    plan: PlanArguments,
    output: OutputArguments,
    config: NuggetsConfig,
) -> None:
    """Measure, and print the plan."""
    check_places(rows, scorer, config)
    from nuggets_trainer.planning.plan_pool import plan_pool
    from nuggets_trainer.ranks import end_processes

    with stdout_kept_for_result() as stdout:
        model, tokenizer, pool, options = load(rows, row_options, scorer, config)
        planned = plan_pool(model, tokenizer, pool, **options, **vars(plan))
        write_result(stdout, planned.to_dict(), planned.describe(), output.json)
        end_processes()
