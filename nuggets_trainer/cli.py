"""`nuggets score`: score a pool and choose its golden set, without training. Thin over `score_pool`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

USAGE = """usage: nuggets score [--config FILE] --model_name_or_path M --dataset_name D --score_dir S [--anchors A ...]

commands:
  score    score a pool with a base model and choose the golden set (no training)

`nuggets score --help` lists the options. Several processes: `accelerate launch -m nuggets_trainer.cli score ...`.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(USAGE)
        return 0 if arguments else 2
    command, *rest = arguments
    if command != "score":
        sys.stderr.write(f"nuggets: there is no command {command!r}\n\n{USAGE}")
        return 2
    score(rest)
    return 0


def score(argv: Sequence[str]) -> None:
    """Score a pool: parse arguments, load rows and model, call `score_pool`.

    Raises:
        ValueError: for missing or contradictory arguments, before anything is loaded.
    """
    import torch
    from accelerate import PartialState
    from trl import ScriptArguments, TrlParser

    from nuggets_trainer.arguments import ScorerArguments, parse_arguments, parse_shard, recipe_parser
    from nuggets_trainer.causal_lm import resolve_autocast_dtype
    from nuggets_trainer.config import NuggetsConfig
    from nuggets_trainer.loading import load_rows, load_scorer
    from nuggets_trainer.pool import Pool, take_pool
    from nuggets_trainer.scorer import score_pool, score_shard
    from nuggets_trainer.selector import anchor_pools

    logging.basicConfig(format="%(message)s")
    logging.getLogger("nuggets_trainer").setLevel(logging.INFO)
    # Without `cpu`, several processes on a machine without an accelerator would not know of each other.
    state = PartialState(cpu=not torch.accelerator.is_available())
    parser = TrlParser((ScriptArguments, ScorerArguments, NuggetsConfig), prog="nuggets score")
    training_keys = frozenset(action.dest for action in recipe_parser()._actions)  # one YAML serves both programs
    script, scorer, config = parse_arguments(parser, argv, ignored=training_keys)
    required = {
        "model_name_or_path": config.scorer_model or scorer.model_name_or_path,
        "dataset_name": script.dataset_name,
        "score_dir": config.score_dir,
    }
    missing = [f"--{name}" for name, value in required.items() if value is None]
    if missing:
        raise ValueError(f"`nuggets score` needs {', '.join(missing)}.")
    shard = None if scorer.shard is None else parse_shard(scorer.shard)
    rows = load_rows(script.dataset_name, script.dataset_config, script.dataset_train_split, script.dataset_streaming)
    pool = Pool(take_pool(rows, config.pool_size, "dataset_name"), "dataset_name")
    anchors = anchor_pools(config, None, pool)
    # Of a YAML that tunes one model and scores with another, this program needs the scorer alone.
    kwargs = config.scorer_kwargs
    if config.scorer_model is None:
        kwargs = {
            "dtype": scorer.dtype,
            "revision": scorer.model_revision,
            "attn_implementation": scorer.attn_implementation,
            "trust_remote_code": scorer.trust_remote_code,
        }
    # `device_map` and not `.to`: quantized weights cannot be moved.
    model, tokenizer = load_scorer(required["model_name_or_path"], **{"device_map": {"": state.device}, **kwargs})
    options = {
        "config": config,
        "score_dir": config.score_dir,
        "autocast_dtype": resolve_autocast_dtype(config.score_dtype, model.dtype),
    }
    if shard is None:
        score_pool(model, tokenizer, pool, anchors, **options)
    else:
        score_shard(model, tokenizer, pool, anchors, shard=shard, **options)
    state.destroy_process_group()  # left to the interpreter's end, gloo aborts now and then


if __name__ == "__main__":
    sys.exit(main())
