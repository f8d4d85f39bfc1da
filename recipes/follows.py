"""What a golden score follows, and how far it is the choice of anchors: from scores that are on disk, without a model.

```bash
python recipes/follows.py --score_dir scores --dataset_name pool.jsonl --columns source quality --group_by instruction
```

Scores must be of every pair (`nuggets score --schedule exact ...`; what a race has stored is reused). With
`--group_by`, rows are compared with others of the same group alone (answers to one instruction): what groups differ in
is gone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from datasets import Dataset
from scipy import stats

from nuggets_trainer import load_rows
from nuggets_trainer.comparison.association import associate
from nuggets_trainer.comparison.reliability import measure_reliability
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import UnusableRowError, joined_text
from nuggets_trainer.golden.scores import golden_scores

Floats = npt.NDArray[np.floating]
# Columns that rows are made of, not descriptions of them.
TEXTS = {"instruction", "input", "output", "prompt", "completion", "messages", "conversations", "text", "tools"}
TOKENS = {"input_ids", "labels", "attention_mask", "completion_mask", "assistant_masks"}


def read_matrix(score_dir: Path) -> tuple[Floats, Floats]:
    """Log-probs of the anchors `(m,)`, and behind each row `(n, m)`, as `score_pool` wrote them."""
    zero_shot = pq.read_table(score_dir / "anchors.parquet")["zero_shot"].to_numpy(zero_copy_only=False)
    lists = pq.read_table(score_dir / "pairs.parquet")["one_shot"].combine_chunks()
    one_shot = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, len(zero_shot))
    return zero_shot.astype(np.float32), one_shot.astype(np.float32)


def source_columns(rows: Dataset) -> dict[str, list[Any]]:
    """Columns that describe rows, by name."""
    return {name: rows[name][:] for name in rows.column_names if name not in TEXTS | TOKENS}


def follow(
    zero_shot: Floats, one_shot: Floats, columns: Mapping[str, Any], lengths: Floats, sizes: Sequence[int]
) -> dict[str, Any]:
    """Hold golden scores against columns, and measure their reliability for each size of the golden set.

    Args:
        zero_shot: `(m,)`.
        one_shot: `(n, m)`.
        columns: each `(n,)`.
        lengths: of the completions, `(n,)`.
        sizes: of golden sets.

    Returns:
        `associations` and `reliability`, as JSON holds them, and `text`, for the terminal.
    """
    score = golden_scores(zero_shot, one_shot).golden_score
    found = [associate(score, name, values, lengths) for name, values in columns.items()]
    associations = [association for association in found if association is not None]
    reliability = [measure_reliability(zero_shot, one_shot, k) for k in sizes]
    lines = [f"golden score against {association.describe()}" for association in associations]
    lines += [f"golden set of {r.k:,}: {line}" for r in reliability for line in r.describe().splitlines()]
    return {
        "associations": [dataclasses.asdict(association) for association in associations],
        "reliability": [dataclasses.asdict(r) for r in reliability],
        "text": "\n".join(lines),
    }


def within_groups(score: Floats, values: Floats, groups: Sequence[str], lengths: Floats | None) -> dict[str, float]:
    """Rank correlation of score and values inside each group, mean over groups and its standard error.

    Args:
        score: `(n,)`.
        values: `(n,)`, numbers.
        groups: `(n,)`.
        lengths: to hold equal inside a group (what a straight line through the length ranks leaves of both ranks).
    """
    found = []
    for group in sorted(set(groups)):
        rows = np.array([g == group for g in groups]) & np.isfinite(score) & np.isfinite(values)
        if rows.sum() < 4:
            continue
        a, b = stats.rankdata(score[rows]), stats.rankdata(values[rows])
        if lengths is not None:
            by = stats.rankdata(lengths[rows])
            a, b = (side - np.polyval(np.polyfit(by, side, 1), by) for side in (a, b))
        if a.std() > 1e-9 and b.std() > 1e-9:
            found.append(float(np.corrcoef(a, b)[0, 1]))
    if len(found) < 2:
        raise ValueError(
            "`--group_by` compares rows within groups, but fewer than two groups have four or more rows whose scores "
            "and values differ. Name a column that more rows share, or leave it out."
        )
    error = float(np.std(found, ddof=1) / np.sqrt(len(found)))
    return {"mean": float(np.mean(found)), "standard_error": error, "groups": len(found)}


def completion_characters(rows: Dataset) -> Floats:
    """Length of each completion in characters, `(n,)`; NaN where a row is unusable."""
    pool, lengths = Pool(rows), np.full(len(rows), np.nan)
    for i in range(len(pool)):
        try:
            row = pool[i]
        except UnusableRowError:
            continue
        lengths[i] = len(joined_text(row.completion)) if row.tokens is None else len(row.tokens[1])
    return lengths


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--score_dir", type=Path, required=True, help="where score_pool wrote its results")
    parser.add_argument("--dataset_name", required=True, help="the rows that were scored")
    parser.add_argument("--columns", nargs="+", help="default: all that describe rows")
    parser.add_argument("--group_by", help="column whose equal values make a group")
    parser.add_argument("--top_fractions", type=float, nargs="+", default=[0.1])
    parser.add_argument("--json", action="store_true")
    return parser


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Print what the scores follow; return it."""
    options = make_parser().parse_args(list(argv))
    rows = load_rows(options.dataset_name)
    zero_shot, one_shot = read_matrix(options.score_dir)
    if len(one_shot) != len(rows):
        raise ValueError(
            f"{options.score_dir} holds scores of {len(one_shot):,} rows, but {options.dataset_name} has "
            f"{len(rows):,}. Give the rows that were scored."
        )
    columns: dict[str, Any] = source_columns(rows)
    named = [*(options.columns or []), *([options.group_by] if options.group_by else [])]
    unknown = sorted(set(named) - set(rows.column_names))
    if unknown:
        raise ValueError(f"`{unknown[0]}` is no column of {options.dataset_name}, which has {rows.column_names}.")
    if options.columns:
        columns = {name: rows[name][:] for name in options.columns}
    lengths = completion_characters(rows)
    columns = {"completion_characters": lengths, **columns}
    num_scored = int(np.isfinite(one_shot).any(axis=1).sum())
    sizes = [max(1, round(f * num_scored)) for f in options.top_fractions]
    found = follow(zero_shot, one_shot, columns, lengths, sizes)
    if options.group_by:
        groups = [str(value) for value in rows[options.group_by]]
        score = golden_scores(zero_shot, one_shot).golden_score
        found["within_groups"] = {}
        for association in found["associations"]:
            if association["kind"] == "categories":
                continue
            values = np.asarray(columns[association["column"]], dtype=np.float64)
            plain = within_groups(score, values, groups, None)
            equal = None
            if association["column"] != "completion_characters":
                equal = within_groups(score, values, groups, lengths)
            found["within_groups"][association["column"]] = {"plain": plain, "at_equal_length": equal}
            text = f"{plain['mean']:+.2f} +- {plain['standard_error']:.2f}"
            if equal is not None:
                text += f", at equal length {equal['mean']:+.2f} +- {equal['standard_error']:.2f}"
            found["text"] += (
                f"\nwithin equal {options.group_by} ({plain['groups']:.0f} groups), golden score against "
                f"{association['column']}: rank correlation {text}"
            )
    text = found.pop("text")
    print(json.dumps(found) if options.json else text)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
