"""Does selection pay? Tune on the golden set, on random rows, on simple baselines and on all rows, and measure.

The embedded demo (no arguments needed), then your own model and rows, at two sizes of the golden set:

```bash
accelerate launch recipes/compare.py
accelerate launch recipes/compare.py \
    --model_name_or_path Qwen/Qwen3-0.6B-Base --dataset_name pool.jsonl --anchors anchors.jsonl \
    --eval_dataset_name heldout.jsonl --golden_fractions 0.05 0.1 --use_peft --max_steps 200 --output_dir compare
```

Every option of recipes/train.py but a selection rule is one here as well. The pool is scored once, on all pairs; each
run (arm, fraction, seed) tunes the base model anew, with the arguments of the main job, for as many optimizer steps as
all others, and measures the loss of every held-out row. Killed at any moment, the same command continues: scores and
finished runs are on disk. Written to `output_dir`: compare.json, compare.md, compare.svg (with matplotlib) and runs/.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from trl import ModelConfig, SFTConfig, TrlParser

from nuggets_trainer import NuggetsConfig, load_rows
from nuggets_trainer.commands.arguments import given_options, parse_arguments
from nuggets_trainer.comparison.arms import Evidence
from nuggets_trainer.comparison.compare import ScoredPool, compare_arms
from nuggets_trainer.comparison.completion_losses import CompletionLosses, completion_losses
from nuggets_trainer.comparison.follows import read_log_probs
from nuggets_trainer.comparison.options import CompareArguments, check_comparable
from nuggets_trainer.comparison.table import TableLine
from nuggets_trainer.data.dataset import take_pool
from nuggets_trainer.engine.loading import load_scorer_of
from nuggets_trainer.pipeline.request import ScoringRequest, read_request
from nuggets_trainer.pipeline.rows import read_pool, scorer_tokenizer
from nuggets_trainer.pipeline.score_pool import score_request
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.store.files import write_atomically
from nuggets_trainer.training.job import model_init_kwargs
from nuggets_trainer.training.job_arguments import RecipeArguments
from nuggets_trainer.training.rows import find_training_chat_template, row_options

DEMO_CONFIG = Path(__file__).parent.parent / "configs" / "compare_demo.yaml"
COVERAGE_WEIGHT = 0.5  # weight of the arm `coverage`, unless `coverage_weight` is given


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
    rows = load_rows(script.dataset_name, script.dataset_config, script.dataset_train_split, script.dataset_streaming)
    pool = take_pool(rows, nuggets.pool_size, "dataset_name")
    assert script.eval_dataset_name is not None  # `parse` has checked it
    heldout = load_rows(script.eval_dataset_name, split=script.dataset_test_split)
    scored = ScoredPool(*gather_evidence(pool, args, model, nuggets, options))
    return compare_arms(pool, scored, heldout, args, model, nuggets.template, options)


def gather_evidence(
    dataset: Any, args: SFTConfig, model: ModelConfig, nuggets: NuggetsConfig, options: CompareArguments
) -> tuple[Evidence, CompletionLosses, dict[str, float | None], dict[str, Any] | None]:
    """Score the pool once, all pairs, and the completions alone; what is stored is not computed again.

    Returns:
        What the arms choose by; losses of the completions; seconds that each cost; the signal check, if it was made.
    """
    score_dir = Path(nuggets.score_dir or Path(args.output_dir) / "nuggets")
    config = dataclasses.replace(nuggets, schedule="exact", score_dir=str(score_dir), coverage_weight=None)
    own = model_init_kwargs(args, model)
    scorer, tokenizer = load_scorer_of(config, model.model_name_or_path, Ranks().device, own)
    training_options = row_options(args)
    tokenizer = scorer_tokenizer(tokenizer, config, training_options)
    request = read_request(
        scorer,
        tokenizer,
        read_pool(dataset, config, training_options, name="dataset_name"),
        config=config,
        row_options=training_options,
        training_chat_template=find_training_chat_template(tokenizer, training_options),
        training_dtype=torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None,
    )
    pool = request.pool
    scores, _ = score_request(scorer, request)
    losses, seconds, share = _timed_losses(scorer, request)
    total = int(scores.num_anchors.sum())
    costs = Ranks().on_main(
        lambda: _remember(
            Path(args.output_dir) / "costs.json",
            {"scoring": (scores.seconds, min(1.0, scores.num_pairs_scored / total)), "ifd": (seconds, share)},
        )
    )
    zero_shot, one_shot = read_log_probs(score_dir)
    if pool.is_text_only and "ifd" in options.arms:
        raise ValueError("The arm `ifd` needs rows with a prompt, but these are text alone. Leave it out of `arms`.")
    check_path = score_dir / "signal_check.json"
    check = json.loads(check_path.read_text()) if check_path.is_file() else None
    evidence = Evidence(zero_shot, one_shot, losses.num_tokens, losses.ifd, nuggets.coverage_weight or COVERAGE_WEIGHT)
    return evidence, losses, costs, check


def _timed_losses(model: Any, request: ScoringRequest) -> tuple[CompletionLosses, float, float]:
    """Losses of the completions, seconds, and the share of them that was computed now."""
    started = time.monotonic()
    losses = completion_losses(model, request)
    return losses, time.monotonic() - started, losses.share_computed


def _remember(path: Path, spent: dict[str, tuple[float, float]]) -> dict[str, float | None]:
    """Keep what scoring cost, from the run that computed most of it, scaled to all; None where none did."""
    try:
        kept = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        kept = {}
    for name, (seconds, share) in spent.items():
        if share > kept.get(name, {"share": 0.0})["share"]:
            kept[name] = {"seconds": seconds, "share": share}
    write_atomically(path, json.dumps(kept, indent=2).encode())
    return {name: kept[name]["seconds"] / kept[name]["share"] if name in kept else None for name in spent}


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    logging.getLogger("nuggets_trainer").setLevel(logging.INFO)
    main(*parse(sys.argv[1:]))
    PartialState().destroy_process_group()  # left to the interpreter's end, gloo aborts now and then
