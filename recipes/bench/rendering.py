r"""Cost of rendering a pool: time of a row in this process and in workers, and memory that its prompts hold.

```bash
OMP_NUM_THREADS=1 python recipes/bench/rendering.py                        # the tokenizer and rows of the demo
OMP_NUM_THREADS=1 python recipes/bench/rendering.py --model_name_or_path M --dataset_name pool.jsonl \
    --anchors anchors.jsonl --template chat --num_rows 20000 --num_workers 8
```

The rows of the pool are repeated, with a number in each, until there are as many as asked for. The script prints wall
time, the CPU time of this process, which bounds how many workers it can feed, and that of the workers.
"""

from __future__ import annotations

import argparse
import pickle
import resource
import sys
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace

from transformers import AutoTokenizer

from nuggets_trainer import Pool, load_rows
from nuggets_trainer.data.anchors import anchors_like
from nuggets_trainer.data.row import Row
from nuggets_trainer.demo import demo_path
from nuggets_trainer.prompts.segment import CandidatePrompt
from nuggets_trainer.prompts.shared_prefix import AnchorSet, SharedPrefix
from nuggets_trainer.prompts.templates import make_template
from nuggets_trainer.scoring.render_workers import Rendering, Workers, render_row
from nuggets_trainer.scoring.rendering import BLOCK_ROWS

MEASURED_ROWS = 500  # rows whose memory is measured


def main(argv: Sequence[str]) -> dict[str, float]:
    """Measure and print; return the figures."""
    options = _parser().parse_args(list(argv))
    name = options.model_name_or_path
    tokenizer = AutoTokenizer.from_pretrained(demo_path("model") if name == "nuggets-demo/model" else name)
    pool = Pool(load_rows(options.dataset_name))
    anchors = anchors_like(load_rows(options.anchors), pool)
    template = make_template(options.template, tokenizer, pool, anchors)
    anchor_rows = [anchors[j] for j in range(len(anchors))]
    anchor_set = AnchorSet(template, anchor_rows, [None] * len(anchor_rows), None)
    shared = SharedPrefix(template, anchor_set.rows)
    rows = [_numbered(pool[i % len(pool)], i) for i in range(options.num_rows)]

    figures = _memory(shared, rows[:MEASURED_ROWS])
    started, cpu = time.monotonic(), time.process_time()
    here = [render_row(shared, row) for row in rows]
    figures["ms_here"] = (time.monotonic() - started) * 1000 / len(rows)
    figures["cpu_ms_here"] = (time.process_time() - cpu) * 1000 / len(rows)

    started, cpu = time.monotonic(), time.process_time()
    there: list[Rendering] = []
    with Workers(shared, options.num_workers) as workers:
        answers = workers.render(rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS))
        there += next(answers)
        figures["start_seconds"] = time.monotonic() - started
        steady = time.monotonic()
        for answer in answers:
            there += answer
        figures["ms_there"] = (time.monotonic() - steady) * 1000 / max(1, len(rows) - BLOCK_ROWS)
    figures["cpu_ms_feeding"] = (time.process_time() - cpu) * 1000 / len(rows)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures["cpu_ms_there"] = (used.ru_utime + used.ru_stime) * 1000 / len(rows)
    figures["identical"] = float(here == there)
    _print(figures, options, template.name, len(anchor_set.rows))
    return figures


def _numbered(row: Row, number: int) -> Row:
    """Make a row that differs from its copies."""
    if isinstance(row.prompt, str):
        return replace(row, prompt=f"{row.prompt} ({number})")
    first = row.prompt[-1]
    return replace(row, prompt=[*row.prompt[:-1], {**first, "content": f"{first['content']} ({number})"}])


def _memory(shared: SharedPrefix, rows: list[Row]) -> dict[str, float]:
    """Measure bytes and prefix tokens of a row's prompt."""
    sent = pickle.dumps([render_row(shared, row) for row in rows])
    tracemalloc.start()
    prompts = pickle.loads(sent)  # without what the template keeps for the rows that it saw last
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    tokens = sum(prompt.prefix_tokens() for prompt in prompts if isinstance(prompt, CandidatePrompt))
    return {"bytes_per_row": size / len(rows), "tokens_per_row": tokens / len(rows)}


def _print(figures: dict[str, float], options: argparse.Namespace, template: str, num_anchors: int) -> None:
    print(
        f"{options.num_rows:,} rows before {num_anchors} anchors, template {template}\n"
        f"memory: {figures['bytes_per_row']:,.0f} bytes a row of {figures['tokens_per_row']:.0f} prefix tokens\n"
        f"this process: {figures['ms_here']:.2f} ms a row ({figures['cpu_ms_here']:.2f} CPU ms)\n"
        f"{options.num_workers} workers: {figures['ms_there']:.2f} ms a row behind the first block, which came after "
        f"{figures['start_seconds']:.1f} s ({figures['cpu_ms_there']:.2f} CPU ms in workers, "
        f"{figures['cpu_ms_feeding']:.3f} in this process)\n"
        f"identical: {'yes' if figures['identical'] else 'NO'}; this process / feeding, in CPU time: "
        f"{figures['cpu_ms_here'] / figures['cpu_ms_feeding']:.1f}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model_name_or_path", default="nuggets-demo/model")
    parser.add_argument("--dataset_name", default="nuggets-demo/pool")
    parser.add_argument("--anchors", default="nuggets-demo/anchors")
    parser.add_argument("--template", default="auto")
    parser.add_argument("--num_rows", type=int, default=2000)
    parser.add_argument("--num_workers", type=int, default=2)
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
