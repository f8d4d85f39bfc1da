"""`nuggets train`: reads the command line of the main job and runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trl import TrlParser

from nuggets_trainer.commands import EXIT_CODES, description
from nuggets_trainer.commands.arguments import parse_arguments, recipe_parser
from nuggets_trainer.commands.config_file import config_path, or_demo, set_environment
from nuggets_trainer.commands.parser import with_first_word

DEMO_CONFIG = config_path("demo")
USAGE = "nuggets train [--demo | --config FILE | D --model_name_or_path M] [options]"
EPILOG = f"""examples:
  nuggets train --demo
  nuggets train --model_name_or_path Qwen/Qwen3-0.6B-Base --dataset_name pool.jsonl --anchors anchors.jsonl \\
      --top_fraction 0.1 --use_peft --output_dir out
  nuggets train --num_processes 8 --config my.yaml

Without a model, rows and a config it runs the embedded demo, as with --demo: about a minute and a half on 2 cores.
If it is killed, the same command continues. On a machine without a GPU add `--bf16 false`: TRL's default is bfloat16.

{EXIT_CODES}"""


def make_train_parser() -> TrlParser:
    """Make the parser of the command."""
    return recipe_parser("nuggets train", description=description("train"), usage=USAGE, epilog=EPILOG)


def parse(argv: Sequence[str]) -> tuple[Any, ...]:
    """Read the command line; the pool may be its first word. Without config, model and rows, the demo is run.

    Args:
        argv: command line, without the program's name.

    Returns:
        `RecipeArguments`, `SFTConfig`, `ModelConfig`, `NuggetsConfig`.

    Raises:
        ValueError: if arguments are missing, unknown or contradictory.
    """
    argv = or_demo(with_first_word(argv, "--dataset_name"), DEMO_CONFIG)
    set_environment(argv)  # before the parser, which imports transformers
    arguments = parse_arguments(make_train_parser(), argv)
    script, _, model, _ = arguments
    required = {"model_name_or_path": model.model_name_or_path, "dataset_name": script.dataset_name}
    missing = [f"--{name}" for name, value in required.items() if value is None]
    if missing:
        raise ValueError(f"Training needs {' and '.join(missing)} (or no arguments at all, for the demo).")
    return arguments


def run(*arguments: Any) -> None:
    """Run the job."""
    from nuggets_trainer.training.job import run_job

    run_job(*arguments).accelerator.end_training()
