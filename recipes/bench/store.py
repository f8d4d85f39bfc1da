"""Cost of a large store: write a simulated store, open it, resume from it and select from it.

```bash
python recipes/bench/store.py --candidates 1000000 --anchors 100 --directory /tmp
```

The script prints seconds, bytes, files and the largest memory of each stage. Scores are random numbers; keys have the
form of real ones. The store is deleted at the end.
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

from nuggets_trainer.golden.selection import select_golden_set
from nuggets_trainer.prompts.segment import Segment
from nuggets_trainer.prompts.shared_prefix import AnchorSet
from nuggets_trainer.scoring.collect import Collected, Outcome, collect
from nuggets_trainer.store.results import PoolScores, write_results
from nuggets_trainer.store.score_store import ScoreStore, known
from nuggets_trainer.store.scratch import Scratch

FloatArray = npt.NDArray[Any]
PART = 1000  # candidates, as the store's FLUSH_CANDIDATES


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Print the seconds and the memory of a stage."""
    started = time.monotonic()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name:40s} {time.monotonic() - started:8.1f} s   largest memory so far {peak:6.2f} GiB", flush=True)


def keys(number: int, kind: str) -> list[str]:
    """Make content hashes of rows that do not exist."""
    return [hashlib.sha256(f"{kind}{i}".encode()).hexdigest()[:32] for i in range(number)]


def write(store: ScoreStore, candidates: list[str], anchors: list[str]) -> None:
    """Fill a store with random log-probs, in parts of the size that a job writes."""
    generator = np.random.default_rng(0)
    store.write([None] * len(anchors), anchors, generator.normal(-2, 0.5, len(anchors)))
    for first in range(0, len(candidates), PART):
        part = candidates[first : first + PART]
        pairs = [key for key in part for _ in anchors]
        store.write(pairs, anchors * len(part), generator.normal(-2, 0.5, len(pairs)))


def _total_size(paths: list[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def main(num_candidates: int, num_anchors: int, directory: Path) -> None:
    """Run all stages and print the cost of each."""
    with tempfile.TemporaryDirectory(dir=directory) as place:
        with stage("keys"):
            candidates, anchors = keys(num_candidates, "candidate"), keys(num_anchors, "anchor")
        with stage("write all pairs"):
            write(ScoreStore(place, {"simulated": "yes"}), candidates, anchors)
        parts = list(Path(place).glob("*/parts/*.parquet"))
        print(f"{len(parts):,} files, {_total_size(parts) / 1e9:.2f} GB")
        with stage("open and read (resume: what is missing?)"):
            store = ScoreStore(place, {"simulated": "yes"})
            zero_shot = store.read([""], anchors)[0][0]
            matrix = store.read_matrix(candidates, anchors, Scratch(directory))
            missing = 0
            for first in range(0, len(matrix), 65536):
                missing += int((~known(matrix[first : first + 65536])).sum())
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
        written = _total_size(list(Path(place).glob("*.parquet")))
        print(f"{written / 1e9:.2f} GB of results")


def collect_all(zero_shot: FloatArray, matrix: FloatArray, scratch: Scratch) -> Collected:
    """Collect as `score_pool` does; a stand-in takes the place of tokenized anchors."""
    num_anchors = len(zero_shot)
    stand_in = SimpleNamespace(
        usable=list(range(num_anchors)),
        dropped=[None] * num_anchors,
        segments=[Segment([1, 2], 1)] * num_anchors,
        pool_index=[None] * num_anchors,
        set_names=[""] * num_anchors,
        num_cut=0,
    )
    anchor_set = cast(AnchorSet, stand_in)
    rows = np.arange(len(matrix))
    excluded = scratch.full(matrix.shape, False, np.bool_)
    outcome = Outcome(zero_shot, matrix, rows, excluded, np.full(len(matrix), np.nan), {}, np.zeros(0, dtype=np.int64))
    keys = list(map("{:032x}".format, rows.tolist()))
    return collect(outcome, anchor_set, rows, keys, len(matrix), "mean", scratch)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument("--anchors", type=int, default=100)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    main(options.candidates, options.anchors, options.directory)
