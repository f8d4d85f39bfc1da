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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import PartialState
from compare_arms import ARMS, COSTS, EVERY_FRACTION, LABELS, Evidence
from compare_generation import METRICS
from compare_runs import Laboratory
from compare_table import Bootstrap, Line, Measured, draw, make_lines, to_json, to_markdown
from follows import follow, read_matrix, source_columns
from trl import ModelConfig, SFTConfig, TrlParser

from nuggets_trainer import NuggetsConfig, Pool, load_rows, score_pool
from nuggets_trainer.commands.arguments import given_options, parse_arguments
from nuggets_trainer.comparison.completion_losses import CompletionLosses, completion_losses
from nuggets_trainer.config.checks import check_choice, check_int, check_number
from nuggets_trainer.data.pool import take_pool
from nuggets_trainer.engine.loading import load_scorer_of
from nuggets_trainer.engine.model import resolve_autocast_dtype
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.store.files import write_atomically
from nuggets_trainer.training.job import model_init_kwargs
from nuggets_trainer.training.job_arguments import RecipeArguments
from nuggets_trainer.training.selector import anchor_pools

logger = logging.getLogger("nuggets_trainer.compare")

DEMO_CONFIG = Path(__file__).parent.parent / "configs" / "compare_demo.yaml"
BUDGETS = ("steps", "epochs")
COVERAGE_WEIGHT = 0.5  # of the arm `coverage`, unless `coverage_weight` says otherwise


@dataclass
class CompareArguments:
    """What is compared with what."""

    arms: list[str] = field(
        default_factory=lambda: list(ARMS),
        metadata={"help": f"What to tune on: {', '.join(ARMS)}. The base model is measured as well."},
    )
    golden_fractions: list[float] = field(
        default_factory=lambda: [0.1],
        metadata={"help": "Sizes of the golden set, as shares of the candidates; all arms but `full` are as large."},
    )
    num_seeds: int = field(
        default=5,
        metadata={
            "help": "Runs of each arm and fraction, with the seeds `seed`, `seed` + 1, ...: order of the rows, "
            "first weights of the adapter, and which rows a random arm draws."
        },
    )
    budget: str = field(
        default="steps",
        metadata={
            "help": "`steps`: all arms take as many optimizer steps, `max_steps`, or else those of "
            "`num_train_epochs` over the full pool. `epochs`: each takes `num_train_epochs` over its own rows.",
            "choices": list(BUDGETS),
        },
    )
    num_resamples: int = field(default=2000, metadata={"help": "Of the bootstrap behind the intervals."})
    generation_metric: str | None = field(
        default=None,
        metadata={
            "help": "Also complete held-out prompts greedily: `exact_match`, or `rouge_l` (needs rouge-score).",
            "choices": list(METRICS),
        },
    )
    num_generations: int = field(default=100, metadata={"help": "Held-out rows, the first ones, to complete."})

    def __post_init__(self) -> None:
        for name, known in (("arms", self.arms), ("golden_fractions", self.golden_fractions)):
            if not isinstance(known, list) or not known or len(set(known)) < len(known):
                raise ValueError(f"`{name}` must be a list of different values, at least one, got {known!r}.")
        for arm in self.arms:
            check_choice("arms", arm, tuple(ARMS))
        for fraction in self.golden_fractions:
            check_number("golden_fractions", fraction)
            if not 0 < fraction < 1:
                raise ValueError(
                    f"`golden_fractions` must be between 0 and 1, got {fraction}. Write 0.1 for 10%; the arm `full` "
                    "is the whole pool."
                )
        check_choice("budget", self.budget, BUDGETS)
        for name in ("num_seeds", "num_resamples", "num_generations"):
            check_int(name, getattr(self, name), minimum=1)
        if self.generation_metric is not None:
            check_choice("generation_metric", self.generation_metric, METRICS)


def parse(argv: Sequence[str]) -> tuple[Any, ...]:
    """Parse arguments; where neither a config, a model nor rows are named, the demo's config is used.

    Raises:
        ValueError: for what a comparison cannot work with, before anything is loaded.
    """
    named = given_options(argv) & {"config", "model_name_or_path", "dataset_name", "help"}
    if not named and "-h" not in argv:
        argv = ["--config", str(DEMO_CONFIG), *argv]
    parser = TrlParser((RecipeArguments, SFTConfig, ModelConfig, NuggetsConfig, CompareArguments))
    arguments = parse_arguments(parser, argv)
    script, args, model, nuggets, _ = arguments
    required = {
        "model_name_or_path": model.model_name_or_path,
        "dataset_name": script.dataset_name,
        "eval_dataset_name": script.eval_dataset_name,
    }
    missing = [f"--{name}" for name, value in required.items() if value is None]
    if missing:
        raise ValueError(f"recipes/compare.py needs {', '.join(missing)} (or no arguments at all, for the demo).")
    for name in ("top_fraction", "top_k", "threshold"):
        if getattr(nuggets, name) is not None:
            raise ValueError(f"`{name}={getattr(nuggets, name)}` is one size: set `golden_fractions` instead.")
    for name in ("group_by", "max_similarity"):
        if getattr(nuggets, name) is not None:
            raise ValueError(f"`{name}` limits which rows go together; the arms of a comparison do not. Drop it.")
    if len(nuggets.anchor_sets or {}) > 1:
        raise ValueError(f"A comparison measures one anchor set, got {sorted(nuggets.anchor_sets)}. Keep one of them.")
    if nuggets.reselect != "no" or nuggets.match_full_steps:
        name = "match_full_steps" if nuggets.match_full_steps else "reselect"
        raise ValueError(f"`{name}` is of the main job: a comparison trains every arm on fixed rows. Drop it.")
    if args.packing:
        raise ValueError("`packing=True` gives arms of short rows fewer steps per epoch than others. Set it to false.")
    return arguments


def main(
    script: RecipeArguments, args: SFTConfig, model: ModelConfig, nuggets: NuggetsConfig, options: CompareArguments
) -> list[Line]:
    """Score, run every arm, write and print the table; return its lines."""
    ranks, output_dir = Ranks(), Path(args.output_dir)
    dataset = take_pool(
        load_rows(script.dataset_name, script.dataset_config, script.dataset_train_split, script.dataset_streaming),
        nuggets.pool_size,
        "dataset_name",
    )
    assert script.eval_dataset_name is not None  # `parse` saw to it
    heldout = load_rows(script.eval_dataset_name, split=script.dataset_test_split)
    evidence, losses, costs, check = gather_evidence(dataset, args, model, nuggets, options)
    laboratory = Laboratory(
        args,
        model,
        nuggets.template,
        dataset,
        sorted(evidence.ranked.tolist()),
        heldout,
        output_dir / "runs",
        None if options.generation_metric is None else (options.generation_metric, options.num_generations),
    )
    evidence = _only(evidence, laboratory.usable)
    measured = run_all(laboratory, evidence, args, options, costs)
    lines = make_lines(
        measured, Bootstrap(laboratory.num_tokens, options.num_seeds, options.num_resamples), ranks.world
    )

    def write() -> None:
        sizes = [_size(fraction, evidence) for fraction in options.golden_fractions]
        columns = {"completion_tokens": losses.num_tokens, "completion_loss": losses.with_prompt, "ifd": losses.ifd}
        found = follow(
            evidence.zero_shot,
            evidence.one_shot,
            {**columns, **source_columns(dataset)},
            losses.num_tokens.astype(np.float64),
            [k for k in sizes if k < len(evidence.ranked)],
        )
        text = found.pop("text")
        content = {
            "lines": to_json(lines), "heldout_rows": len(laboratory.segments), "budget": options.budget,
            "num_candidates": len(evidence.ranked), "signal_check": check, "follows": found,
        }  # fmt: skip
        report = f"{to_markdown(lines)}\n\n{explain(options, laboratory, ranks.world)}\n\n{text}\n"
        report += "" if check is None else f"{check['says']}\n"
        write_atomically(output_dir / "compare.json", json.dumps(content, indent=2).encode())
        write_atomically(output_dir / "compare.md", report.encode())
        print(f"\n{report}")
        _draw(lines, output_dir / "compare.svg")

    ranks.on_main(write)
    return lines


def gather_evidence(
    dataset: Any, args: SFTConfig, model: ModelConfig, nuggets: NuggetsConfig, options: CompareArguments
) -> tuple[Evidence, CompletionLosses, dict[str, float | None], dict[str, Any] | None]:
    """Score the pool once, all pairs, and the completions alone; what is stored is not computed again.

    Returns:
        What the arms choose by; losses of the completions; seconds that each cost; the signal check, if it was made.
    """
    score_dir = Path(nuggets.score_dir or Path(args.output_dir) / "nuggets")
    config = dataclasses.replace(nuggets, schedule="exact", score_dir=str(score_dir), coverage_weight=None)
    pool = Pool(dataset, "dataset_name")
    anchors = anchor_pools(config, None, pool)
    own = model_init_kwargs(args, model)
    scorer, tokenizer = load_scorer_of(config, model.model_name_or_path, Ranks().device, own)
    training_dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
    autocast_dtype = resolve_autocast_dtype(config.score_dtype, scorer.dtype, training_dtype)
    scores, _ = score_pool(
        scorer, tokenizer, pool, anchors, config=config, score_dir=score_dir, autocast_dtype=autocast_dtype
    )
    losses, seconds, share = _timed_losses(scorer, tokenizer, pool, config, score_dir, autocast_dtype)
    total = int(scores.num_anchors.sum())
    costs = Ranks().on_main(
        lambda: _remember(
            Path(args.output_dir) / "costs.json",
            {"scoring": (scores.seconds, min(1.0, scores.num_pairs_scored / total)), "ifd": (seconds, share)},
        )
    )
    zero_shot, one_shot = read_matrix(score_dir)
    if pool.is_text_only and "ifd" in options.arms:
        raise ValueError("The arm `ifd` needs rows with a prompt, but these are text alone. Leave it out of `arms`.")
    check_path = score_dir / "signal_check.json"
    check = json.loads(check_path.read_text()) if check_path.is_file() else None
    evidence = Evidence(zero_shot, one_shot, losses.num_tokens, losses.ifd, nuggets.coverage_weight or COVERAGE_WEIGHT)
    return evidence, losses, costs, check


def run_all(
    laboratory: Laboratory,
    evidence: Evidence,
    args: SFTConfig,
    options: CompareArguments,
    costs: dict[str, float | None],
) -> list[Measured]:
    """Run every arm at every fraction with every seed, those that depend on no fraction once."""
    steps = None if options.budget == "epochs" else args.max_steps if args.max_steps > 0 else laboratory.full_steps
    plan: list[tuple[str, float | None]] = [("base", None)]
    plan += [(arm, None) for arm in options.arms if arm in EVERY_FRACTION]
    plan += [(a, f) for f in options.golden_fractions for a in options.arms if a not in EVERY_FRACTION]
    return [_run_arm(laboratory, evidence, arm, fraction, args.seed, steps, options, costs) for arm, fraction in plan]


def _run_arm(
    laboratory: Laboratory,
    evidence: Evidence,
    arm: str,
    fraction: float | None,
    first_seed: int,
    steps: int | None,
    options: CompareArguments,
    costs: dict[str, float | None],
) -> Measured:
    k = 0 if fraction is None else _size(fraction, evidence)
    golden = set(evidence.ranked[:k].tolist())
    runs, shares, num_rows = [], [], 0
    for seed in range(first_seed, first_seed + options.num_seeds):
        rows: npt.NDArray[np.int64] = np.array([], dtype=np.int64) if arm == "base" else ARMS[arm](evidence, k, seed)
        if arm != "base" and not len(rows):
            raise ValueError(f"The arm `{arm}` found no row at all. Leave it out of `arms`.")
        # The base model is what it is, whatever the seed.
        run, stored = laboratory.run(rows, first_seed if arm == "base" else seed, 0 if arm == "base" else steps)
        runs.append(run)
        shares.append(len(golden.intersection(rows.tolist())) / max(1, len(rows)))
        num_rows = len(rows)
        loss = float(np.average(run.losses, weights=laboratory.num_tokens))
        if Ranks().is_main and not (arm == "base" and seed > first_seed):
            size = "" if fraction is None else f" {fraction:.3g} of the pool,"
            done = "was on disk" if stored else f"{run.training_seconds + run.evaluation_seconds:.0f} s"
            logger.info(
                "%s,%s %d rows, seed %d: held-out loss %.4f (%s)", LABELS[arm], size, num_rows, seed, loss, done
            )
    return Measured(
        arm=arm,
        fraction=fraction,
        num_rows=num_rows,
        golden_share=None if fraction is None else float(np.mean(shares)),
        losses=np.array([run.losses for run in runs]),
        choosing_seconds=costs[COSTS[arm]] if arm in COSTS else 0.0,
        training_seconds=float(np.mean([run.training_seconds for run in runs])) if arm != "base" else 0.0,
        steps=runs[0].steps,
        generation=None if runs[0].generation is None else [float(run.generation or 0) for run in runs],
    )


def explain(options: CompareArguments, laboratory: Laboratory, num_devices: int) -> str:
    """Say what the numbers of the table are."""
    budget = "as many optimizer steps" if options.budget == "steps" else "as many epochs over its own rows"
    return (
        f"Loss in nats per completion token on {len(laboratory.segments):,} held-out rows, mean and standard "
        f"deviation of {options.num_seeds} seeds; each arm takes {budget}. Differences are paired, in brackets their "
        f"95% intervals by a bootstrap over seeds and held-out rows ({options.num_resamples:,} resamples). `golden`: "
        "share of the rows that are in the golden set of that size. `s`: wall time of choosing and of one training "
        f"run, on {num_devices} device(s); what is computed for choosing is paid once for all arms that need it, and "
        "a control that is matched to the golden set needs it too."
    )


def _size(fraction: float, evidence: Evidence) -> int:
    return max(1, round(fraction * len(evidence.ranked)))


def _only(evidence: Evidence, usable: npt.NDArray[np.int64]) -> Evidence:
    """Leave out rows that TRL does not train on."""
    one_shot = np.full_like(evidence.one_shot, np.nan)
    one_shot[usable] = evidence.one_shot[usable]
    return dataclasses.replace(evidence, one_shot=one_shot)


def _timed_losses(
    model: Any, tokenizer: Any, pool: Pool, config: NuggetsConfig, score_dir: Path, dtype: torch.dtype | None
) -> tuple[CompletionLosses, float, float]:
    """Losses of the completions, seconds, and the share of them that was computed now."""
    import time

    started = time.monotonic()
    losses = completion_losses(model, tokenizer, pool, config=config, score_dir=score_dir, autocast_dtype=dtype)
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


def _draw(lines: Sequence[Line], path: Path) -> None:
    try:
        draw(lines, path)
    except ImportError:
        logger.warning("No plot: matplotlib is not installed (`pip install nuggets_trainer[plot]`).")


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    logging.getLogger("nuggets_trainer").setLevel(logging.INFO)
    main(*parse(sys.argv[1:]))
    PartialState().destroy_process_group()  # left to the interpreter's end, gloo aborts now and then
