# /// script
# requires-python = ">=3.10"
# dependencies = ["nuggets_trainer[eval]"]
# ///
"""AlpacaEval and MT-Bench of a tuned model: answers, judgments, one run against another, the paper's table.

First the model answers, on all devices. After a kill the same command continues:

```bash
accelerate launch recipes/evaluate.py generate --model_name_or_path outputs/alpaca_kmeans100 --template nuggets \
    --name alpaca-kmeans100-above-0.8
```

Then any OpenAI-compatible endpoint judges; each judgment is paid once. Two runs can be judged against each other. The
last step prints the paper's table:

```bash
python recipes/evaluate.py judge --names alpaca-kmeans100-above-0.8 --judge_prompts judge_prompts.jsonl
python recipes/evaluate.py pairwise --names alpaca-kmeans100-above-0.8 alpaca-full --judge_prompts judge_prompts.jsonl
python recipes/evaluate.py table
```

`nuggets evaluate` is the same from the installed package. To use a judge of your own, run `vllm serve MODEL` or
`transformers serve MODEL` and give `--base_url http://localhost:8000/v1 --judge_model MODEL`. One YAML file (`--config
configs/paper/evaluate.yaml`) can hold the options of all steps.
"""

from __future__ import annotations

import sys

from nuggets_trainer.cli import run_program
from nuggets_trainer.commands.evaluate import parse, run

if __name__ == "__main__":
    sys.exit(run_program(sys.argv[0], parse, run))
