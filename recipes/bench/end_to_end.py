r"""Cost of a golden set, end to end: the race and the exact schedule of `score_pool`, and the research loop.

```bash
OMP_NUM_THREADS=1 python recipes/bench/end_to_end.py                      # the embedded model, pool and anchors
OMP_NUM_THREADS=1 python recipes/bench/end_to_end.py --model_name_or_path M --dataset_name pool.jsonl \
    --anchors anchors.jsonl --template nuggets --num_candidates 300 --top_fraction 0.01
```

The race and the exact schedule run whole, each into a store of its own, with loading and writing. The research loop
(`reference.py`) is timed on candidates that are evenly spaced by length, and its time is multiplied. The script prints
the CPU seconds of this process, which a busy machine disturbs least, and wall seconds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from reference import MAX_ANCHOR_TOKENS, ReferenceLoop
from shapes import Workload

from nuggets_trainer import NuggetsConfig, Pool, load_rows, load_scorer, score_pool
from nuggets_trainer.data.anchors import anchors_like
from nuggets_trainer.data.row import UnusableRowError
from nuggets_trainer.engine.model import context_length
from nuggets_trainer.prompts.shared_prefix import AnchorSet, SharedPrefix
from nuggets_trainer.prompts.templates import make_template

T = TypeVar("T")


def timed(run: Callable[[], T]) -> tuple[T, float, float]:
    """Call a function; return its result, CPU seconds and wall seconds."""
    cpu, wall = time.process_time(), time.monotonic()
    result = run()
    return result, time.process_time() - cpu, time.monotonic() - wall


def workloads(model: Any, tokenizer: Any, pool: Pool, anchors: Pool, template_name: str) -> list[Workload]:
    """Make the work for each candidate that can be scored: its prefix and all anchors of at most 200 tokens."""
    template = make_template(template_name, tokenizer, pool)
    max_length = context_length(model.config)
    rows = [anchors[j] for j in range(len(anchors))]
    anchor_set = AnchorSet(template, rows, [None] * len(rows), max_length)
    shared = SharedPrefix(template, anchor_set.rows, max_length)
    works = []
    for i in range(len(pool)):
        try:
            prompt = shared.candidate(pool[i])
        except UnusableRowError:
            continue
        prefix, own, _ = next(shared.parts(prompt))
        segments = [shared.suffixes[j] for j in own if len(shared.suffixes[j].ids) <= MAX_ANCHOR_TOKENS]
        works.append(Workload(prefix, segments, ""))
    return sorted(works, key=lambda work: work.useful_tokens)


def main(argv: Sequence[str]) -> dict[str, float]:
    """Measure and print; return the ratios."""
    options = _parser().parse_args(list(argv))
    model, tokenizer = load_scorer(options.model_name_or_path, dtype=torch.float32)
    rows = load_rows(options.dataset_name)
    if options.num_candidates is not None:
        rows = rows.select(np.linspace(0, len(rows) - 1, options.num_candidates).astype(int))
    pool = Pool(rows)
    anchors = anchors_like(load_rows(options.anchors), pool)

    golden_sets, seconds = {}, {}
    for schedule in ("race", "exact"):
        config = NuggetsConfig(template=options.template, top_fraction=options.top_fraction, schedule=schedule)
        with tempfile.TemporaryDirectory() as score_dir:
            (scores, golden_set), *seconds[schedule] = timed(
                lambda config=config, score_dir=score_dir: score_pool(  # type: ignore[misc]
                    model, tokenizer, pool, anchors, config=config, score_dir=score_dir
                )
            )
        golden_sets[schedule] = golden_set
        print(f"{schedule}: {seconds[schedule][0]:.1f} CPU s, {seconds[schedule][1]:.1f} s; {scores.describe()}")

    works = workloads(model, tokenizer, pool, anchors, options.template)
    sample = works[len(works) // (2 * options.num_reference) :: max(1, len(works) // options.num_reference)]
    loop = ReferenceLoop(model, options.batch_size)
    _, cpu, wall = timed(lambda: [loop(work) for work in sample])
    seconds["reference"] = [cpu * len(works) / len(sample), wall * len(works) / len(sample)]
    print(
        f"reference: {seconds['reference'][0]:.1f} CPU s, {seconds['reference'][1]:.1f} s, from {len(sample)} of "
        f"{len(works)} candidates, batches of {options.batch_size}"
    )
    same = np.array_equal(golden_sets["race"].indices, golden_sets["exact"].indices)
    ratios = {name: seconds["reference"][0] / seconds[name][0] for name in ("race", "exact")}
    print(f"{golden_sets['race'].describe()}\nequal to the exact schedule's: {'yes' if same else 'NO'}")
    print(f"reference / exact: {ratios['exact']:.2f}; reference / race: {ratios['race']:.2f}")
    return {**ratios, "identical": float(same)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model_name_or_path", default="nuggets-demo/model")
    parser.add_argument("--dataset_name", default="nuggets-demo/pool")
    parser.add_argument("--anchors", default="nuggets-demo/anchors")
    parser.add_argument("--template", default="auto")
    parser.add_argument("--top_fraction", type=float, default=0.01)
    parser.add_argument("--num_candidates", type=int, help="evenly spaced rows of the pool; default: all")
    parser.add_argument("--num_reference", type=int, default=20, help="candidates that the research loop is timed on")
    parser.add_argument("--batch_size", type=int, default=16, help="anchors in a batch of the research loop")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
