# /// script
# requires-python = ">=3.10"
# dependencies = ["nuggets_trainer"]
# ///
"""Does selection pay? Tune on the golden set, on random rows, on simple baselines and on all rows, and compare.

The first command compares on the embedded demo, the second gives a first answer there in minutes, and the third
compares on your own model and rows at two sizes of the golden set:

```bash
accelerate launch recipes/compare.py
accelerate launch recipes/compare.py --quick
accelerate launch recipes/compare.py \
    --model_name_or_path Qwen/Qwen3-0.6B-Base --dataset_name pool.jsonl --anchors anchors.jsonl \
    --eval_dataset_name heldout.jsonl --golden_fractions 0.05 0.1 --use_peft --max_steps 200 --output_dir compare
```

`nuggets compare` is the same job from the installed package. Each run (arm, size, seed) tunes the base model again
with the training arguments of the main job and the same number of optimizer steps, and measures the loss of every
held-out row. After a kill the same command continues, because scores and finished runs are on disk.
"""

from __future__ import annotations

import sys

from nuggets_trainer.cli import run_program
from nuggets_trainer.commands.compare import parse, run

if __name__ == "__main__":
    sys.exit(run_program(sys.argv[0], parse, run))
