r"""Cost of the signals of each row by itself (`row_signals`), as a share of the exact schedule.

```bash
OMP_NUM_THREADS=1 python recipes/bench/row_signals.py --num_candidates 100     # the embedded model, pool and anchors
OMP_NUM_THREADS=1 python recipes/bench/row_signals.py --model_name_or_path M --dataset_name pool.jsonl \
    --anchors anchors.jsonl --num_candidates 12
```

Both are run on the same rows, into a store that is thrown away: first the signals of one row, which has all costs that
do not grow with the pool (the anchors are embedded, and rows in a batch are compared with rows alone), then those of
the others, then all pairs. The script prints the CPU seconds of this process, which a busy machine disturbs least, for
each and for the whole pool.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from nuggets_trainer import NuggetsConfig, Pool, load_rows, load_scorer
from nuggets_trainer.data.anchors import anchors_like
from nuggets_trainer.pipeline.request import read_request
from nuggets_trainer.scoring.anchors import find_anchors
from nuggets_trainer.scoring.exact import ExactRun
from nuggets_trainer.scoring.rendering import render_pool
from nuggets_trainer.scoring.session import open_session
from nuggets_trainer.scoring.watch import Watch
from nuggets_trainer.signals.row_signals import row_signals


def cpu_seconds(run: Callable[[], object]) -> float:
    """Call a function; return the CPU seconds that it took."""
    started = time.process_time()
    run()
    return time.process_time() - started


def main(argv: Sequence[str]) -> dict[str, float]:
    """Measure and print; return the share of the exact schedule, for these rows and for the whole pool."""
    options = _parser().parse_args(list(argv))
    model, tokenizer = load_scorer(options.model_name_or_path, dtype=getattr(torch, options.dtype))
    rows = load_rows(options.dataset_name)
    num_rows = len(rows)
    rows = rows.select(np.linspace(0, num_rows - 1, options.num_candidates).astype(int))
    pool = Pool(rows)
    anchors = anchors_like(load_rows(options.anchors), pool)
    config = NuggetsConfig(template=options.template, schedule="exact")
    for is_warm in (False, True):
        with tempfile.TemporaryDirectory() as score_dir:
            request = read_request(model, tokenizer, pool, anchors, config, score_dir)
            with open_session(model, request) as session:
                anchor_set = find_anchors(session)
                rendered = render_pool(session, anchor_set, range(len(pool)))
                candidates = rendered.candidates
                fixed = cpu_seconds(partial(row_signals, session, anchor_set, candidates[:1]))
                if not is_warm:
                    continue
                signals = cpu_seconds(partial(row_signals, session, anchor_set, candidates))
                exact = cpu_seconds(ExactRun(session, rendered, Watch()).score)
    of_row = (signals - fixed) / (len(candidates) - 1)
    shares = {
        "these rows": (fixed + signals) / exact,
        "a further row": of_row * len(candidates) / exact,
        "whole pool": (fixed + of_row * num_rows) / (exact / len(candidates) * num_rows),
    }
    print(
        f"{len(candidates)} rows x {len(anchor_set.keys)} anchors: exact schedule {exact:.1f} CPU s, signals "
        f"{fixed:.2f} CPU s for the first row, {of_row:.3f} for each further one"
    )
    for name, share in shares.items():
        print(f"signals / exact schedule, {name}: {share:.1%}")
    return shares


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model_name_or_path", default="nuggets-demo/model")
    parser.add_argument("--dataset_name", default="nuggets-demo/pool")
    parser.add_argument("--anchors", default="nuggets-demo/anchors")
    parser.add_argument("--template", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--num_candidates", type=int, default=100, help="evenly spaced rows of the pool, at least 2")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
