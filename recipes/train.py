# /// script
# requires-python = ">=3.10"
# dependencies = ["nuggets_trainer"]
# ///
"""Score a pool with the base model, keep its golden set, tune on it with TRL SFT and PEFT: one job.

The embedded demo (no arguments needed), and the same with another rule:

```bash
accelerate launch recipes/train.py
accelerate launch recipes/train.py --config configs/demo.yaml --top_fraction 0.05
```

Your own model and rows (a hub name, a local directory, or a .json, .jsonl, .csv or .parquet file):

```bash
accelerate launch recipes/train.py \
    --model_name_or_path Qwen/Qwen3-0.6B-Base \
    --dataset_name pool.jsonl \
    --anchors anchors.jsonl \
    --top_fraction 0.1 \
    --use_peft \
    --output_dir out
```

`nuggets train` is the same job from the installed package. What it does, step by step, is in
nuggets_trainer/training/job.py: copy its `run_job` for a job of your own.
"""

from __future__ import annotations

import sys

from nuggets_trainer.cli import run_program
from nuggets_trainer.commands.train import parse, run

if __name__ == "__main__":
    sys.exit(run_program(sys.argv[0], parse, run))
