# /// script
# requires-python = ">=3.10"
# dependencies = ["nuggets_trainer"]
# ///
"""The same tuning without selection: all rows of the pool, or as many random ones as a golden set has.

```bash
accelerate launch recipes/control.py --config configs/alpaca_kmeans100.yaml --output_dir outputs/alpaca-full
accelerate launch recipes/control.py --config configs/alpaca_kmeans100.yaml --num_rows 7525 \
    --output_dir outputs/alpaca-random-rows
```

It takes the config of a run of recipes/train.py. Model, rows, template and tuning are the same; the options of
selection are not used. Rows that could not be scored are left out here too. After a kill the same command continues
from the last checkpoint.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import AutoTokenizer
from transformers.trainer import TRAINER_STATE_NAME
from trl import ModelConfig, SFTConfig, SFTTrainer, TrlParser

from nuggets_trainer import NuggetsConfig, Pool
from nuggets_trainer.cli import run_program
from nuggets_trainer.commands.arguments import parse_arguments
from nuggets_trainer.engine.loading import hub_options
from nuggets_trainer.pipeline.rows import read_pool
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.training.checkpoints import find_checkpoint, find_finished
from nuggets_trainer.training.job import save_finished, train_and_save, trainer_arguments
from nuggets_trainer.training.job_arguments import RecipeArguments
from nuggets_trainer.training.rows import row_options, rows_for_trl


@dataclass
class ControlArguments:
    """Rows to tune on."""

    num_rows: int | None = field(default=None, metadata={"help": "Number of random rows. Default: all rows."})
    rows_seed: int = field(default=0, metadata={"help": "Seed of the draw of random rows."})


def parse(argv: Sequence[str]) -> tuple[Any, ...]:
    """Parse the options of recipes/train.py and of the control."""
    parser = TrlParser((RecipeArguments, SFTConfig, ModelConfig, NuggetsConfig, ControlArguments))
    return parse_arguments(parser, argv)


def choose_rows(pool: Pool, num_rows: int | None, seed: int) -> Dataset:
    """Return the usable rows of a pool in their order, all of them or a random sample.

    Raises:
        ValueError: if there are fewer usable rows than `num_rows`.
    """
    usable = pool.usable_indices()
    if num_rows is not None:
        if not 0 < num_rows <= len(usable):
            raise ValueError(
                f"`num_rows` must be between 1 and {len(usable):,}, the number of usable rows, got {num_rows}."
            )
        usable = sorted(np.random.default_rng(seed).choice(usable, num_rows, replace=False).tolist())
    return pool.dataset.select(usable)


def main(
    script: RecipeArguments, args: SFTConfig, model: ModelConfig, nuggets: NuggetsConfig, control: ControlArguments
) -> SFTTrainer:
    """Tune on the rows; return the trainer, trained and saved."""
    with trainer_arguments(script, args, model, nuggets) as arguments:
        pool = read_pool(arguments["train_dataset"], nuggets, row_options(args), name="dataset_name")
        rows = choose_rows(pool, control.num_rows, control.rows_seed)
        tokenizer = AutoTokenizer.from_pretrained(arguments["model"], **hub_options(args))
        arguments["train_dataset"] = rows_for_trl(rows, nuggets.template, args, tokenizer)
        heldout = arguments["eval_dataset"]
        if isinstance(heldout, dict):
            for name, own in heldout.items():
                heldout[name] = rows_for_trl(own, nuggets.template, args, tokenizer)
        elif heldout is not None:
            arguments["eval_dataset"] = rows_for_trl(heldout, nuggets.template, args, tokenizer)
        trainer = SFTTrainer(**arguments)
    say = trainer.accelerator.print
    say(f"Tuning on {len(rows):,} rows, without selection.")
    checkpoint = Ranks().on_main(lambda: find_checkpoint(args, TRAINER_STATE_NAME))
    finished = Ranks().on_main(lambda: find_finished(checkpoint, args))
    if finished is not None:
        save_finished(trainer, finished)
        say(f"Nothing is left to train: {finished.place} has all steps. For another run choose another `output_dir`.")
    else:
        train_and_save(trainer, checkpoint)
    return trainer


def run(*arguments: Any) -> None:
    """Tune, and end the trackers and processes."""
    main(*arguments).accelerator.end_training()


if __name__ == "__main__":
    sys.exit(run_program(sys.argv[0], parse, run))
