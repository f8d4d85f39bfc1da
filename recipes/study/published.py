"""Agreement of a small scorer with published golden scores of a large one, by number of anchors. Needs no model.

The authors of the method published rows with golden scores of LLaMA-7B on 100 anchors: rows with a column `score`, in
`datasets/alpaca_gpt4/kmeans_100` of the repository pldlgb/nuggets, with the anchors beside them. Score such rows with
some of these anchors, then compare:

```bash
nuggets score --model_name_or_path MODEL --dataset_name alpaca_gpt4_bad.json --anchors anchors.jsonl \
    --schedule exact --row_signals true --score_dir scores
python recipes/study/published.py --score_dir scores --dataset_name alpaca_gpt4_bad.json
python recipes/study/published.py --score_dir scores --dataset_name alpaca_gpt4_bad.json --pool_size 800 --json
```

The table shows Spearman's rank correlation with the published scores: golden score, mean gain and standardised gain by
number of anchors; then the length of the completion, and loss and IFD where scores.parquet has them. The intervals are
95% intervals over rows and anchors. The difference is that to the golden score with as many anchors, or with all of
them for a ranking that uses none, and it is paired. The last column is the rank correlation with all anchors, without
the effect of the completion's length. Low losses and a low IFD are taken as good.

For a part of the rows, give `--pool_size` to both commands; take the part at random (shuffle the file first).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from nuggets_trainer import load_rows
from nuggets_trainer.analysis.association import partial_correlation
from nuggets_trainer.analysis.compared_rankings import ComparedRanking, Estimate, correlation_by_anchors
from nuggets_trainer.analysis.follows import completion_characters
from nuggets_trainer.config.rule_options import RANK_BY
from nuggets_trainer.golden.scores import golden_scores
from nuggets_trainer.store.read_results import read_log_probs
from nuggets_trainer.store.results import SCORES_FILE

Floats = npt.NDArray[np.floating]
SIGNALS = ("loss", "loss_without_prompt", "ifd")
LENGTH = "completion characters"


def read_given(score_dir: Path, lengths: Floats) -> dict[str, Floats]:
    """Return the rankings that use no anchors, `(n,)` each: the length, and low values of the stored signals."""
    given = {LENGTH: lengths}
    stored = pq.read_table(score_dir / SCORES_FILE)
    for name in SIGNALS:
        if name in stored.column_names:
            given[f"low {name}"] = -stored[name].to_numpy(zero_copy_only=False).astype(np.float64)
    return given


def at_equal_length(values: Floats, column: Floats, lengths: Floats) -> float:
    """Return the rank correlation of values and column without the effect of the length, rows with all three alone."""
    usable = np.isfinite(values) & np.isfinite(column) & np.isfinite(lengths)
    return partial_correlation(values[usable], column[usable], lengths[usable])


def markdown(found: Sequence[ComparedRanking], equal_length: dict[str, float], most: int) -> str:
    """Write the table."""
    lines = [
        "| ranking | anchors | rank correlation | minus golden score | at equal length |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in found:
        uses_all = row.num_anchors in (None, most) and row.ranking in equal_length
        cells = [
            row.ranking,
            "" if row.num_anchors is None else str(row.num_anchors),
            as_text(row.quality),
            as_text(row.difference) if row.difference else "",
            f"{equal_length[row.ranking]:+.2f}" if uses_all else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def as_text(estimate: Estimate) -> str:
    """Write a number and its interval."""
    return f"{estimate.value:+.2f} [{estimate.low:+.2f}, {estimate.high:+.2f}]"


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--score_dir", type=Path, required=True, help="directory with the results of nuggets score")
    parser.add_argument("--dataset_name", required=True, help="rows that were scored")
    parser.add_argument("--column", default="score", help="column with the published scores")
    parser.add_argument("--pool_size", type=int, help="number of first rows that were scored; default: all")
    parser.add_argument("--num_anchors", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--num_draws", type=int, default=400, help="draws of rows and anchors for the intervals")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Print the table; return its numbers."""
    options = make_parser().parse_args(list(argv))
    rows = load_rows(options.dataset_name)
    if options.pool_size:
        rows = rows.select(range(options.pool_size))
    zero_shot, one_shot = read_log_probs(options.score_dir)
    if len(one_shot) != len(rows):
        raise ValueError(
            f"{options.score_dir} holds scores of {len(one_shot):,} rows, but there are {len(rows):,} rows. Give the "
            "rows that were scored, and `--pool_size` if these are the first ones alone."
        )
    anchors = np.isfinite(zero_shot)
    zero_shot, one_shot = zero_shot[anchors].astype(np.float64), one_shot[:, anchors].astype(np.float64)
    usable = np.isfinite(one_shot).any(axis=1)
    if np.isnan(one_shot[usable]).sum(axis=1).max(initial=0) > 1:
        raise ValueError(f"{options.score_dir} lacks pairs, as after a race. Score with `--schedule exact` there.")
    published = np.array(rows[options.column][:], dtype=np.float64)
    lengths = completion_characters(rows)
    given = read_given(options.score_dir, lengths)
    most = len(zero_shot)
    numbers = sorted({number for number in options.num_anchors if number < most} | {most})
    found = correlation_by_anchors(zero_shot, one_shot, published, RANK_BY, numbers, given, options.num_draws)
    scores = golden_scores(zero_shot, one_shot)
    equal_length = {name: at_equal_length(getattr(scores, name), published, lengths) for name in RANK_BY}
    for name, values in given.items():
        if name != LENGTH:
            equal_length[name] = at_equal_length(values, published, lengths)
    result = {
        "rows": int(usable.sum()),
        "anchors": most,
        "rankings": [dataclasses.asdict(row) for row in found],
        "at_equal_length": equal_length,
    }
    if options.json:
        print(json.dumps(result))
    else:
        print(f"{result['rows']:,} rows, {most} anchors\n\n{markdown(found, equal_length, most)}")
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
