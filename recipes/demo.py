"""The main job on the embedded model and pool, and beside it what random rows in the same number would have done.

```bash
accelerate launch recipes/demo.py                          # what `make demo` runs
accelerate launch recipes/demo.py --num_seeds 3 --full     # three seeds, and the full pool at equal steps
accelerate launch recipes/demo.py --top_fraction 0.05      # any option of recipes/train.py
```

The pool's rows carry a label, `corruption`, that selection never reads: it is looked up here, after the fact.
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
from trl import SFTConfig, SFTTrainer, get_peft_config

from nuggets_trainer import SelectedSFTTrainer, load_rows
from nuggets_trainer.commands.output import log_to_stderr
from nuggets_trainer.commands.train import parse
from nuggets_trainer.demo import resolve_demo
from nuggets_trainer.prompts.trl_columns import alpaca_to_trl
from nuggets_trainer.training.job import run_job


def main(argv: Sequence[str]) -> tuple[SelectedSFTTrainer, dict[str, list[float]]]:
    """Run the job, then the control arms, and print the table; return the trainer and held-out losses by arm."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--num_seeds", type=int, default=1)
    parser.add_argument("--full", action="store_true")
    options, rest = parser.parse_known_args(list(argv))
    script, args, model, nuggets = parse(rest)
    pool = load_rows(script.dataset_name)
    trainer = run_job(script, args, model, nuggets)
    golden_loss = trainer.evaluate()["eval_loss"]

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
    """Tunes the same base model on other rows of the pool, with the same arguments and for as many steps."""

    args: SFTConfig
    model: Any
    pool: Dataset
    heldout: Dataset
    steps: int

    def base_loss(self) -> float:
        """Held-out loss before any step, nats per completion token."""
        return float(self._trainer(np.arange(1), self.args.seed).evaluate()["eval_loss"])

    def tune(self, indices: np.ndarray, seed: int) -> float:
        """Held-out loss after tuning on these rows, nats per completion token."""
        trainer = self._trainer(indices, seed)
        trainer.train()
        return float(trainer.evaluate()["eval_loss"])

    def _trainer(self, indices: np.ndarray, seed: int) -> SFTTrainer:
        args = dataclasses.replace(self.args, max_steps=self.steps, seed=seed, save_strategy="no")
        return SFTTrainer(
            model=resolve_demo(self.model.model_name_or_path),
            args=args,
            train_dataset=alpaca_to_trl(self.pool.select(indices), "chat"),
            eval_dataset=alpaca_to_trl(self.heldout, "chat"),
            peft_config=get_peft_config(self.model),
        )


def print_table(trainer: SelectedSFTTrainer, pool: Dataset, losses: dict[str, list[float]]) -> None:
    """Print what went in, what was chosen, and what it was good for."""
    scores, golden_set = trainer.scores, trainer.select()
    clean = np.array([label == "clean" for label in pool["corruption"]])
    families = np.array(pool["family"])
    rows = [("pool", f"{len(pool):,} rows"), ("clean rows in the pool", f"{clean.mean():.1%}")]
    if scores is not None:
        dropped = Counter(reason for reason in scores.dropped if reason)
        rows += [
            ("anchors", f"{len(scores.anchors):,}"),
            ("scored", f"{len(pool) - dropped.total():,} candidates in {scores.seconds:.0f} s"),
            ("dropped", ", ".join(f"{reason} {count}" for reason, count in dropped.items()) or "none"),
        ]
    found = len(set(families[golden_set.indices])), len(set(families))
    rows += [
        ("golden set", f"{len(golden_set):,} rows, {found[0]} of {found[1]} task families"),
        ("clean rows in the golden set", f"{clean[golden_set.indices].mean():.1%}"),
        ("tied at the cut", f"{golden_set.ties_at_cut:,} (golden score {golden_set.cut:.2f})"),
        ("optimizer steps", f"{trainer.state.max_steps}"),
    ]
    for name, values in losses.items():
        spread = f" +- {np.std(values, ddof=1):.4f} ({len(values)} seeds)" if len(values) > 1 else ""
        rows.append((f"held-out loss, {name}", f"{np.mean(values):.4f}{spread}"))
    width = max(len(name) for name, _ in rows)
    print("\n" + "\n".join(f"{name:<{width}}  {value}" for name, value in rows))
    print("(loss in nats per completion token, on rows that are neither in the pool nor among the anchors)")


if __name__ == "__main__":
    log_to_stderr()
    main(sys.argv[1:])
