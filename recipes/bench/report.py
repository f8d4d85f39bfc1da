"""Cost of a report after a large run: write a simulated run and report on it.

```bash
python recipes/bench/report.py --candidates 1000000 --anchors 100 --directory /tmp
```

The script prints seconds and the largest memory of each stage, and the size of the page. Scores are random numbers and
rows are random words; the package writes files and report. Everything is deleted at the end, except the page if
`--keep` names a path for it.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from store import stage

from nuggets_trainer import NuggetsConfig
from nuggets_trainer.data.row import Row
from nuggets_trainer.golden.gains import anchor_scale
from nuggets_trainer.golden.scores import AnchorScores, golden_scores
from nuggets_trainer.golden.selection import select_golden_set
from nuggets_trainer.report import write_report
from nuggets_trainer.store.results import PoolScores, write_results
from nuggets_trainer.store.run_info import RunFacts, write_run_info
from nuggets_trainer.store.score_store import ScoreStore
from nuggets_trainer.store.shown_rows import write_shown_rows

WORDS = ["the", "of", "a", "river", "machine", "small", "answer", "because", "green", "if", "then", "list", "seven"]


class SimulatedPool:
    """Rows that are made when they are read."""

    format, content_hash = "prompt_completion", "simulated"
    dataset = SimpleNamespace(column_names=["prompt", "completion"])

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows

    def __len__(self) -> int:
        return self._num_rows

    def record(self, index: int) -> dict[str, str]:
        """Return the columns of a row."""
        row = self[index]
        return {"prompt": str(row.prompt), "completion": str(row.completion)}

    def __getitem__(self, index: int) -> Row:
        generator = np.random.default_rng(abs(index))
        prompt, completion = (" ".join(generator.choice(WORDS, generator.integers(5, n))) for n in (40, 200))
        return Row(prompt, completion)


def simulated_scores(num_candidates: int, num_anchors: int) -> tuple[PoolScores, np.ndarray]:
    """Scores as a run has them at its end, and the matrix of log-probs."""
    generator = np.random.default_rng(0)
    zero_shot = generator.normal(-2, 0.5, num_anchors).astype(np.float32)
    one_shot = generator.standard_normal((num_candidates, num_anchors), dtype=np.float32)
    one_shot *= 0.2
    one_shot += zero_shot + generator.normal(0, 0.1, (num_candidates, 1)).astype(np.float32)
    tokens = generator.integers(10, 200, num_anchors)
    scale = anchor_scale(zero_shot, one_shot)
    anchors = AnchorScores(
        pool_index=[None] * num_anchors,
        zero_shot=zero_shot,
        num_tokens=tokens,
        dropped=[None] * num_anchors,
        num_cut=0,
        set_names=[""] * num_anchors,
        gain_mean=scale.mean,
        gain_deviation=scale.deviation,
    )
    scores = PoolScores(
        **vars(golden_scores(zero_shot, one_shot)),
        upper_bound=np.full(num_candidates, np.nan),
        dropped=[None] * num_candidates,
        anchors=anchors,
        by_set={},
        num_pairs_scored=num_candidates * num_anchors,
        seconds=3600.0,
    )
    return scores, one_shot


def main(num_candidates: int, num_anchors: int, directory: Path, keep: Path | None) -> None:
    """Run all stages and print the cost of each."""
    with tempfile.TemporaryDirectory(dir=directory) as place:
        with stage("scores (simulated)"):
            scores, one_shot = simulated_scores(num_candidates, num_anchors)
            golden_set = select_golden_set(scores, ("top_fraction", 0.01))
        with stage("write the results"):
            write_results(place, scores, one_shot, golden_set)
        del one_shot
        pool: Any = SimulatedPool(num_candidates)
        anchor_rows = {j: pool[-1 - j] for j in range(num_anchors)}
        store = ScoreStore(place, {"simulated": "yes"})
        facts = RunFacts(
            model="simulated",
            config=NuggetsConfig(),
            template="plain",
            fingerprint=store.fingerprint,
            fingerprint_fields=store.fields,
            num_processes=1,
            device="cpu",
            engine_path="packed",
            tokens_per_batch=16384,
        )
        with stage("write run.json and rows.parquet"):
            write_shown_rows(place, pool, anchor_rows, scores, golden_set, [], str)
            write_run_info(place, facts, pool, scores, golden_set)
        del scores
        subprocess.run([sys.executable, __file__, "--report_on", place], check=True)  # its memory alone is seen
        for path in sorted(Path(place).glob("*.*")):
            print(f"{path.name:20s} {path.stat().st_size / 1e6:10.3f} MB")
        if keep is not None:
            shutil.copy(Path(place) / "report.html", keep)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument("--anchors", type=int, default=100)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--keep", type=Path, default=None)
    parser.add_argument("--report_on", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.report_on is not None:
        with stage("write the report"):
            write_report(options.report_on)
        sys.exit()
    main(options.candidates, options.anchors, options.directory, options.keep)
