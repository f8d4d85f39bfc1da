"""Does selection pay? Tune on the golden set, on random rows, on simple baselines and on all rows, and compare.

The first command compares on the embedded demo, the second on your own model and rows at two sizes of the golden set:

```bash
accelerate launch recipes/compare.py
accelerate launch recipes/compare.py \
    --model_name_or_path Qwen/Qwen3-0.6B-Base --dataset_name pool.jsonl --anchors anchors.jsonl \
    --eval_dataset_name heldout.jsonl --golden_fractions 0.05 0.1 --use_peft --max_steps 200 --output_dir compare
```

The options are those of recipes/train.py without the selection rule, and those of the comparison. All pairs of the
pool are scored once. Each run (arm, fraction, seed) tunes the base model again with the training arguments of the main
job and the same number of optimizer steps, and measures the loss of every held-out row. After a kill the same command
continues, because scores and finished runs are on disk. The results in `output_dir` are compare.json, compare.md,
compare.svg (if matplotlib is installed) and runs/.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from trl import ModelConfig, SFTConfig, TrlParser

from nuggets_trainer import NuggetsConfig
from nuggets_trainer.commands.arguments import given_options, parse_arguments
from nuggets_trainer.comparison.compare import compare_arms
from nuggets_trainer.comparison.options import CompareArguments, check_comparable
from nuggets_trainer.comparison.scored_pool import score_for_arms
from nuggets_trainer.comparison.table import TableLine
from nuggets_trainer.data.dataset import take_pool
from nuggets_trainer.training.job import check_job_paths, load_eval_rows, load_pool_rows
from nuggets_trainer.training.job_arguments import RecipeArguments

DEMO_CONFIG = Path(__file__).parent.parent / "configs" / "compare_demo.yaml"


def parse(argv: Sequence[str]) -> tuple[Any, ...]:
    """Parse the arguments; without a config, a model and rows, use the config of the demo.

    Raises:
        ValueError: if a comparison cannot work with the arguments.
    """
    named = given_options(argv) & {"config", "model_name_or_path", "dataset_name", "help"}
    if not named and "-h" not in argv:
        argv = ["--config", str(DEMO_CONFIG), *argv]
    parser = TrlParser((RecipeArguments, SFTConfig, ModelConfig, NuggetsConfig, CompareArguments))
    script, args, model, nuggets, options = parse_arguments(parser, argv)
    check_comparable(script, args, model, nuggets)
    return script, args, model, nuggets, options


def main(
    script: RecipeArguments, args: SFTConfig, model: ModelConfig, nuggets: NuggetsConfig, options: CompareArguments
) -> list[TableLine]:
    """Score, run every arm, write and print the table; return its lines."""
    check_job_paths(script, args, model, nuggets)
    pool = take_pool(load_pool_rows(script), nuggets.pool_size, "dataset_name")
    heldout = load_eval_rows(script, args)
    scored = score_for_arms(pool, args, model, nuggets, options.arms)
    return compare_arms(pool, scored, heldout, args, model, nuggets.template, options)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    logging.getLogger("nuggets_trainer").setLevel(logging.INFO)
    main(*parse(sys.argv[1:]))
    PartialState().destroy_process_group()  # at the end of the interpreter, gloo aborts now and then
