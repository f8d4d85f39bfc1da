# /// script
# requires-python = ">=3.10"
# dependencies = ["nuggets_trainer"]
# ///
"""The main job on the embedded model and pool, and the same tuning on as many random rows.

```bash
accelerate launch recipes/demo.py                          # what `make demo` runs
accelerate launch recipes/demo.py --num_seeds 3 --full     # three seeds, and the full pool at equal steps
accelerate launch recipes/demo.py --top_fraction 0.05      # any option of recipes/train.py
```

The rows of the pool have a label, `corruption`. Selection never reads it; this script looks it up afterwards.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PrinterCallback
from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config

from nuggets_trainer import NuggetsConfig, SelectedSFTTrainer, load_rows
from nuggets_trainer.cli import run_program
from nuggets_trainer.commands import train
from nuggets_trainer.data.dataset import take_pool
from nuggets_trainer.demo import resolve_demo
from nuggets_trainer.prompts.trl_columns import alpaca_to_trl
from nuggets_trainer.training.job import run_job
from nuggets_trainer.training.preserved import hidden_bars

QUIET = {"save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}


def parse(argv: Sequence[str]) -> tuple[Any, ...]:
    """Parse the options of this script, and those of recipes/train.py."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--num_seeds", type=int, default=1)
    parser.add_argument("--full", action="store_true")
    options, rest = parser.parse_known_args(list(argv))
    return options, *train.parse(rest)


def main(
    options: argparse.Namespace, script: Any, args: SFTConfig, model: ModelConfig, nuggets: NuggetsConfig
) -> tuple[SelectedSFTTrainer, dict[str, list[float]]]:
    """Run the job and the control arms, print the table, and return the trainer and the held-out losses by arm."""
    pool = take_pool(load_rows(script.dataset_name), nuggets.pool_size)
    trainer = run_job(script, args, model, nuggets)
    golden_loss = trainer.evaluate()["eval_loss"]

    say = trainer.accelerator.print
    say("Tuning the base model on other rows, for comparison.")
    controls = Controls(args, model, pool, load_rows(script.eval_dataset_name), steps=trainer.state.max_steps)
    golden = np.sort(trainer.select().indices)
    losses: dict[str, list[float]] = {"golden set": [golden_loss], "random set of the same size": []}
    for seed in range(args.seed, args.seed + options.num_seeds):
        if seed > args.seed:
            losses["golden set"].append(controls.tune(golden, seed))
        drawn = np.random.default_rng(seed).choice(len(pool), size=len(golden), replace=False)
        losses["random set of the same size"].append(controls.tune(np.sort(drawn), seed))
        if options.full:
            losses.setdefault("full pool", []).append(controls.tune(np.arange(len(pool)), seed))
    losses = {"base model": [controls.base_loss()], **losses}
    if trainer.is_world_process_zero():
        print_table(trainer, pool, losses)
    return trainer, losses


@dataclasses.dataclass
class Controls:
    """Tunes the same base model on other rows of the pool, with the same arguments and number of steps."""

    args: SFTConfig
    model: Any
    pool: Dataset
    heldout: Dataset
    steps: int

    def base_loss(self) -> float:
        """Return the held-out loss before any step, nats per completion token."""
        return float(self._trainer(np.arange(1), self.args.seed).evaluate()["eval_loss"])

    def tune(self, indices: np.ndarray, seed: int) -> float:
        """Return the held-out loss after tuning on these rows, nats per completion token."""
        trainer = self._trainer(indices, seed)
        trainer.train()
        loss = float(trainer.evaluate()["eval_loss"])
        trainer.accelerator.print(f"{len(indices):,} rows, seed {seed}: held-out loss {loss:.4f}")
        return loss

    def _trainer(self, indices: np.ndarray, seed: int) -> SFTTrainer:
        args = dataclasses.replace(self.args, max_steps=self.steps, seed=seed, **QUIET)
        with hidden_bars():
            trainer = SFTTrainer(
                model=resolve_demo(self.model.model_name_or_path),
                args=args,
                train_dataset=alpaca_to_trl(self.pool.select(indices), "chat"),
                eval_dataset=alpaca_to_trl(self.heldout, "chat"),
                peft_config=get_peft_config(self.model),
            )
        trainer.remove_callback(PrinterCallback)  # the table has the losses
        return trainer


def print_table(trainer: SelectedSFTTrainer, pool: Dataset, losses: dict[str, list[float]]) -> None:
    """Print what the pool holds, what was chosen, and the losses."""
    scores, golden_set = trainer.scores, trainer.select()
    clean = np.array(pool["corruption"]) == "clean"
    families = np.array(pool["family"])
    rows = [("pool", f"{len(pool):,} rows"), ("clean rows in the pool", f"{clean.mean():.1%}")]
    if scores is not None:
        dropped = Counter(filter(None, scores.dropped))
        counts = [f"{reason} {count}" for reason, count in dropped.items()]
        rows += [
            ("anchors", f"{len(scores.anchors):,}"),
            ("scored", f"{len(pool) - dropped.total():,} candidates in {scores.seconds:.0f} s"),
            ("dropped", ", ".join(counts) or "none"),
        ]
    num_families, num_chosen = len(np.unique(families)), len(np.unique(families[golden_set.indices]))
    rows += [
        ("golden set", f"{len(golden_set):,} rows, {num_chosen} of {num_families} task families"),
        ("clean rows in the golden set", f"{clean[golden_set.indices].mean():.1%}"),
        ("tied at the cut", f"{golden_set.ties_at_cut:,} (golden score {golden_set.cut:.2f})"),
        ("optimizer steps", f"{trainer.state.max_steps}"),
    ]
    for name, values in losses.items():
        text = f"{np.mean(values):.4f}"
        if len(values) > 1:
            text += f" +- {np.std(values, ddof=1):.4f} ({len(values)} seeds)"
        rows.append((f"held-out loss, {name}", text))
    width = max(len(name) for name, _ in rows)
    print()
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    print("(loss in nats per completion token, on rows that are neither in the pool nor among the anchors)")


if __name__ == "__main__":
    sys.exit(run_program(sys.argv[0], parse, main))
