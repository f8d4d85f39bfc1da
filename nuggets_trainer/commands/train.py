"""`nuggets train`: the main job, in the installed package. Thin over `training.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trl import TrlParser

from nuggets_trainer.commands import COMMANDS, EXIT_CODES
from nuggets_trainer.commands.arguments import recipe_parser

USAGE = "nuggets train [--demo | --config FILE | --model_name_or_path M --dataset_name D] [options]"
EPILOG = f"""examples:
  nuggets train --demo
  nuggets train --model_name_or_path Qwen/Qwen3-0.6B-Base --dataset_name pool.jsonl --anchors anchors.jsonl \\
      --top_fraction 0.1 --use_peft --output_dir out
  accelerate launch --num_processes 8 -m nuggets_trainer.cli train --config my.yaml

Without a model, rows or config it runs the embedded demo, as with --demo: about a minute and a half on 2 cores. Killed
at any moment, the same command continues. On a machine without a GPU add `--bf16 false`: TRL's default is bfloat16.

{EXIT_CODES}"""


def make_train_parser() -> TrlParser:
    """Parser of the command."""
    description = f"{COMMANDS['train'].capitalize()}."
    return recipe_parser("nuggets train", description=description, usage=USAGE, epilog=EPILOG)


def parse(argv: Sequence[str]) -> tuple[Any, ...]:
    """Read the command line."""
    from nuggets_trainer.training import job as training

    return training.parse(argv, make_train_parser())


def run(*arguments: Any) -> None:
    """Run the job."""
    from nuggets_trainer.training import job as training

    training.main(*arguments).accelerator.end_training()
