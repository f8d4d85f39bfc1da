r"""Time and memory that a large pool takes before the first forward pass: read, hash, find what repeats, render.

```bash
OMP_NUM_THREADS=1 python recipes/bench/pool.py --num_rows 50000
OMP_NUM_THREADS=1 python recipes/bench/pool.py --num_rows 1000000 --num_words 150 --directory /tmp/pool
```

The rows are synthetic: words drawn by Zipf's law, in the lengths of instruction rows. The words are those that are one
token, so that a row has about as many tokens as words, and 20,000 rare ones of several tokens. One row in a hundred
equals an earlier row, one has a few other words, and one holds a question of a test of 1,000 questions. Each stage is
timed in CPU time of this process, which renders alone, with the memory that it adds. The file of the rows, which is
mapped, does not count. The last two lines are the sums: CPU time a row, and memory a prefix token.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
from transformers import AutoTokenizer

from nuggets_trainer import Pool, load_rows
from nuggets_trainer.data.anchors import anchors_like
from nuggets_trainer.demo import demo_path
from nuggets_trainer.overlap.find import find_overlap
from nuggets_trainer.prompts.segment import CandidatePrompt
from nuggets_trainer.prompts.shared_prefix import AnchorSet, SharedPrefix
from nuggets_trainer.prompts.templates import make_template
from nuggets_trainer.scoring.rendering import render_share

T = TypeVar("T")

NUM_RARE = 20_000
NUM_QUESTIONS = 1000
PLANTED = 100  # every so many rows one is equal to an earlier row, one is nearly equal, and one holds a question
BLOCK = 10_000


def main(argv: Sequence[str]) -> dict[str, float]:
    """Measure and print; return milliseconds of CPU time a row by stage, and what was found."""
    options = _parser().parse_args(list(argv))
    os.environ["LOKY_MAX_CPU_COUNT"] = "1"  # no worker processes
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        file = Path(directory) / "pool.jsonl"
        name = options.model_name_or_path
        tokenizer = AutoTokenizer.from_pretrained(demo_path("model") if name == "nuggets-demo/model" else name)
        questions = write_pool(file, tokenizer, options)
        return measure(file, questions, tokenizer, options)


def measure(file: Path, questions: list[str], tokenizer: Any, options: argparse.Namespace) -> dict[str, float]:
    """Take a pool through all stages."""
    figures: dict[str, float] = {}
    rows: list[int] = []
    start = _memory()

    def timed(stage: str, run: Callable[[], T]) -> T:
        cpu, wall, before = time.process_time(), time.monotonic(), _memory()
        result = run()
        num_rows = len(rows) if stage == "render" else options.num_rows
        figures[stage] = (time.process_time() - cpu) * 1000 / num_rows
        print(
            f"{stage:<12}{figures[stage]:8.3f} CPU ms a row, {time.monotonic() - wall:8.1f} s, "
            f"{(_memory() - before) / num_rows:8.0f} bytes a row more",
            flush=True,
        )
        return result

    pool = timed("load", lambda: Pool(load_rows(str(file))))
    timed("hash", pool.read_keys)
    found = timed("overlap", lambda: find_overlap(pool, {"test": questions}))
    pool.exclude(found.reasons("near"), "overlap")
    anchors = anchors_like(load_rows(options.anchors), pool)
    template = make_template(options.template, tokenizer, pool, anchors)
    anchor_set = AnchorSet(template, [anchors[j] for j in range(len(anchors))], [None] * len(anchors), None)
    shared = SharedPrefix(template, anchor_set.rows)
    rows = pool.longest_first(pool.usable_indices())
    figures["usable"] = len(rows)
    if options.num_rendered is not None:
        rows = rows[:: max(1, len(rows) // options.num_rendered)]
    before_rendering = _memory()
    rendered, took = timed("render", lambda: render_share(shared, rows, pool.readable_rows))
    tokens = sum(prompt.prefix_tokens() for prompt in rendered.values() if isinstance(prompt, CandidatePrompt))
    figures["render_here"] = took.seconds_per_row * 1000
    all_tokens = tokens * figures["usable"] / len(rows)
    figures["bytes_per_token"] = (before_rendering - start) / all_tokens + (_memory() - before_rendering) / tokens
    figures["duplicates"], figures["near"] = len(found.first_of), len(found.near or {})
    figures["contaminated"] = len(found.contaminated)
    stages = ("load", "hash", "overlap", "render")
    figures["together"] = sum(figures[stage] for stage in stages)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(found.describe("near"))
    parts = ", ".join(f"{stage} {figures[stage]:.3f}" for stage in stages)
    print(f"time: {figures['together']:.3f} CPU ms a row ({parts})")
    print(
        f"memory: {figures['bytes_per_token']:.2f} bytes a prefix token ({tokens / len(rows):.0f} tokens a row, "
        f"{peak:.2f} GB at most)"
    )
    return figures


def write_pool(file: Path, tokenizer: Any, options: argparse.Namespace) -> list[str]:
    """Write rows, and return the questions of a test that some of them hold."""
    generator = np.random.default_rng(0)
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda token: token[1])
    words = [word for token, _ in tokens if (word := tokenizer.convert_tokens_to_string([token]).strip()).isalpha()]
    vocabulary = np.array(list(dict.fromkeys(filter(str.isascii, words))) + list(map(_spelled, range(NUM_RARE))))
    share = 1 / np.arange(1, len(vocabulary) + 1)
    chances = np.cumsum(share / share.sum())
    num_rows, num_words = options.num_rows, options.num_words

    def draw(number: int) -> Any:
        return vocabulary[np.searchsorted(chances, generator.random(number) * chances[-1])]

    questions = [" ".join(draw(20)) for _ in range(NUM_QUESTIONS)]
    kept: list[list[str]] = []
    with file.open("w", encoding="utf-8") as out:
        for start in range(0, num_rows, BLOCK):
            lengths = np.clip(generator.lognormal(np.log(num_words), 0.6, BLOCK), 12, 8 * num_words).astype(int)
            drawn = np.split(draw(lengths.sum()), np.cumsum(lengths)[:-1])
            for number, own in enumerate(drawn[: num_rows - start]):
                row = own.tolist()
                if number % PLANTED == 1:
                    row = kept[int(generator.integers(len(kept)))]
                elif number % PLANTED == 2:
                    row = list(kept[int(generator.integers(len(kept)))])
                    for place in generator.integers(len(row), size=max(1, len(row) // 40)):
                        row[int(place)] = "otherwise"
                elif number % PLANTED == 3:
                    row = [*row[:8], questions[int(generator.integers(NUM_QUESTIONS))], *row[8:]]
                elif len(kept) < BLOCK:
                    kept.append(row)
                cut = len(row) // 4
                mark = "" if options.text == "ascii" else "\u2019"
                record = {"instruction": " ".join(row[:cut]) + mark, "output": " ".join(row[cut:]) + "."}
                out.write(json.dumps(record, ensure_ascii=False) + "\n")
    return questions


def _spelled(number: int) -> str:
    """Spell a number as a word of syllables."""
    syllables = ("ba", "ke", "di", "fo", "gu", "la", "me", "ni", "po", "ru")
    return "".join(syllables[int(digit)] for digit in str(number))


def _memory() -> int:
    """Return the bytes of this process alone, without the file of the rows, which is mapped into memory."""
    used = psutil.Process().memory_info()
    return int(used.rss - used.shared)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model_name_or_path", default="nuggets-demo/model")
    parser.add_argument("--anchors", default="nuggets-demo/anchors")
    parser.add_argument("--template", default="plain")
    parser.add_argument("--num_rows", type=int, default=50_000)
    parser.add_argument("--num_rendered", type=int, help="number of rows to render, evenly spaced; default: all")
    parser.add_argument("--num_words", type=int, default=150, help="median number of words of a row")
    parser.add_argument("--text", default="ascii", choices=["ascii", "unicode"])
    parser.add_argument("--directory", help="where the rows are written; default: the directory for temporary files")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
