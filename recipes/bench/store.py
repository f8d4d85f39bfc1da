"""What a large store costs: a simulated one is written, listed, resumed from and selected from.

```bash
python recipes/bench/store.py --candidates 1000000 --anchors 100 --directory /tmp
```

Prints seconds, bytes, files and the largest memory of each stage. Scores are random numbers; keys have the form of
real ones. The store is deleted at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from nuggets_trainer.golden.scores import AnchorScores
from nuggets_trainer.golden.selection import select_golden_set
from nuggets_trainer.prompts.shared_prefix import AnchorSet
from nuggets_trainer.scoring.collect import Collected, Outcome, collect
from nuggets_trainer.store.results import PoolScores, write_results
from nuggets_trainer.store.score_store import ScoreStore, known
from nuggets_trainer.store.scratch import Scratch

FloatArray = npt.NDArray[Any]
PART = 1000  # candidates, as the store's FLUSH_CANDIDATES


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Print what a stage took."""
    started = time.monotonic()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name:40s} {time.monotonic() - started:8.1f} s   largest memory so far {peak:6.2f} GiB", flush=True)


def keys(number: int, kind: str) -> list[str]:
    """Content hashes of rows that nobody wrote."""
    return [hashlib.sha256(f"{kind}{i}".encode()).hexdigest()[:32] for i in range(number)]


def write(store: ScoreStore, candidates: list[str], anchors: list[str]) -> None:
    """Fill a store with random log-probs, in parts as a job writes them."""
    generator = np.random.default_rng(0)
    store.write([None] * len(anchors), anchors, generator.normal(-2, 0.5, len(anchors)))
    for first in range(0, len(candidates), PART):
        part = candidates[first : first + PART]
        pairs = [key for key in part for _ in anchors]
        store.write(pairs, anchors * len(part), generator.normal(-2, 0.5, len(pairs)))


def main(num_candidates: int, num_anchors: int, directory: Path) -> None:
    """Run all stages, printing what each took."""
    with tempfile.TemporaryDirectory(dir=directory) as place:
        with stage("keys"):
            candidates, anchors = keys(num_candidates, "candidate"), keys(num_anchors, "anchor")
        with stage("write all pairs"):
            write(ScoreStore(place, {"simulated": "yes"}), candidates, anchors)
        parts = list(Path(place).glob("*/parts/*.parquet"))
        print(f"{len(parts):,} files, {sum(part.stat().st_size for part in parts) / 1e9:.2f} GB")
        with stage("open and read (resume: what is missing?)"):
            store = ScoreStore(place, {"simulated": "yes"})
            zero_shot = store.read([""], anchors)[0][0]
            matrix = store.read_matrix(candidates, anchors, Scratch(directory))
            missing = sum(int((~known(matrix[a : a + 65536])).sum()) for a in range(0, len(matrix), 65536))
        print(f"{missing:,} pairs missing")
        with stage("golden scores of the pool, from what a schedule found"):
            collected = collect_all(zero_shot, matrix, Scratch(directory))
            scores = PoolScores(
                **vars(collected.scores),
                upper_bound=collected.upper_bound,
                dropped=[None] * num_candidates,
                anchors=collected.anchors,
                by_set={},
                num_pairs_scored=0,
                seconds=0.0,
            )
        with stage("select the top 1%"):
            golden_set = select_golden_set(scores, ("top_fraction", 0.01))
        print(golden_set.describe())
        with stage("write scores.parquet, anchors.parquet, pairs.parquet"):
            write_results(place, scores, collected.one_shot, golden_set)
        written = sum(path.stat().st_size for path in Path(place).glob("*.parquet"))
        print(f"{written / 1e9:.2f} GB of results")


def collect_all(zero_shot: FloatArray, matrix: FloatArray, scratch: Scratch) -> Collected:
    """Collect as `score_pool` does, with a stand-in for anchors that nobody tokenized."""
    num_anchors = len(zero_shot)
    anchors = AnchorScores(
        [None] * num_anchors, zero_shot, np.ones(num_anchors, np.int64), [None] * num_anchors, 0, [""] * num_anchors
    )
    anchor_set = cast(AnchorSet, SimpleNamespace(usable=list(range(num_anchors)), scores=lambda _: anchors))
    rows = np.arange(len(matrix))
    excluded = scratch.full(matrix.shape, False, np.bool_)
    outcome = Outcome(zero_shot, matrix, rows, excluded, np.full(len(matrix), np.nan))
    return collect(outcome, anchor_set, rows, len(matrix), "mean", scratch)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument("--anchors", type=int, default=100)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    main(options.candidates, options.anchors, options.directory)
