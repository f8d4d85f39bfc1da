"""`nuggets compare`: does selection pay on this pool? Reads the command line of a comparison and runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trl import TrlParser

from nuggets_trainer.commands import EXIT_CODES, description
from nuggets_trainer.commands.arguments import IGNORED_IN_TRAINING, OutputArguments, parse_arguments
from nuggets_trainer.commands.config_file import config_path, given_options, or_demo, set_environment
from nuggets_trainer.commands.output import stdout_kept_for_result, write_result
from nuggets_trainer.commands.parser import gather_repeated, make_parser, with_first_word
from nuggets_trainer.config.nuggets_config import NuggetsConfig

DEMO_CONFIG = config_path("compare_demo")
USAGE = "nuggets compare [--demo | --config FILE | D --model_name_or_path M --eval_dataset_name H] [--quick] [options]"
EPILOG = f"""examples:
  nuggets compare --demo --quick
  nuggets compare --quick --model_name_or_path Qwen/Qwen3-0.6B-Base --dataset_name pool.jsonl \\
      --anchors anchors.jsonl --eval_dataset_name heldout.jsonl --use_peft --output_dir compare
  nuggets compare --num_processes 8 --config my.yaml

The table is printed, and written with its numbers and a plot to <output_dir>: compare.md, compare.json, compare.svg
(compare_quick.* with --quick). Without a model, rows and a config it compares on the embedded demo, as with --demo. If
it is killed, the same command continues. On a machine without a GPU add `--bf16 false`: TRL's default is bfloat16.

{EXIT_CODES}"""


def make_compare_parser() -> TrlParser:
    """Make the parser of the command."""
    from trl import ModelConfig, SFTConfig

    from nuggets_trainer.comparison.options import CompareArguments
    from nuggets_trainer.training.job_arguments import RecipeArguments

    dataclasses = (RecipeArguments, SFTConfig, ModelConfig, NuggetsConfig, CompareArguments, OutputArguments)
    return make_parser(
        dataclasses, "nuggets compare", description("compare"), USAGE, EPILOG, unlisted=IGNORED_IN_TRAINING
    )


def parse(argv: Sequence[str]) -> tuple[Any, ...]:
    """Read the command line; the pool may be its first word. Without config, model and rows, the demo is run.

    Args:
        argv: command line, without the program's name.

    Returns:
        `RecipeArguments`, `SFTConfig`, `ModelConfig`, `NuggetsConfig`, `CompareArguments`, `OutputArguments`.

    Raises:
        ValueError: if arguments are missing, unknown or contradictory, or if a comparison cannot work with them.
    """
    argv = gather_repeated(or_demo(with_first_word(argv, "--dataset_name"), DEMO_CONFIG), "--scores")
    set_environment(argv)  # before the parser, which imports transformers
    script, args, model, nuggets, options, output = parse_arguments(make_compare_parser(), argv)
    from nuggets_trainer.comparison.options import arms_to_run, check_comparable, quick_options

    if options.quick:
        options = quick_options(options, given_options(argv))
    check_comparable(script, args, model, nuggets)
    arms_to_run(options, nuggets)
    return script, args, model, nuggets, options, output


def run(script: Any, args: Any, model: Any, nuggets: Any, options: Any, output: OutputArguments) -> Any:
    """Run the comparison, print its table, and return what was found."""
    from nuggets_trainer.comparison.job import run_comparison
    from nuggets_trainer.ranks import end_processes

    with stdout_kept_for_result() as stdout:
        found = run_comparison(script, args, model, nuggets, options)
        write_result(stdout, found.to_dict(), found.describe(options), output.json)
        end_processes()
    return found
