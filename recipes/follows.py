# /// script
# requires-python = ">=3.10"
# dependencies = ["nuggets_trainer"]
# ///
"""What golden scores follow, and how far they depend on the choice of anchors. Reads scores on disk, needs no model.

```bash
python recipes/follows.py --score_dir scores --dataset_name pool.jsonl --columns source quality --group_by instruction
```

Every pair must be scored (`nuggets score --schedule exact ...`; it reuses what a race has stored). With `--group_by`,
a row is compared only with rows of the same group, such as answers to the same instruction. So differences between
groups have no effect.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from nuggets_trainer import load_rows
from nuggets_trainer.analysis.follows import (
    completion_characters,
    describing_columns,
    follow_scores,
    follow_within_groups,
)
from nuggets_trainer.cli import run_program
from nuggets_trainer.golden.scores import golden_scores
from nuggets_trainer.store.read_results import read_log_probs


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--score_dir", type=Path, required=True, help="directory with the results of score_pool")
    parser.add_argument("--dataset_name", required=True, help="rows that were scored")
    parser.add_argument("--columns", nargs="+", help="columns to compare with; default: all that describe rows")
    parser.add_argument("--group_by", help="column whose equal values make a group")
    parser.add_argument("--top_fractions", type=float, nargs="+", default=[0.1], help="sizes of the golden set")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace]:
    """Parse the options."""
    return (make_parser().parse_args(list(argv)),)


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Print what the scores follow; return it."""
    rows = load_rows(options.dataset_name)
    zero_shot, one_shot = read_log_probs(options.score_dir)
    if len(one_shot) != len(rows):
        raise ValueError(
            f"{options.score_dir} holds scores of {len(one_shot):,} rows, but {options.dataset_name} has "
            f"{len(rows):,}. Give the rows that were scored."
        )
    lengths = completion_characters(rows)
    columns = {"completion_characters": lengths, **_named_columns(options, rows)}
    num_scored = int(np.isfinite(one_shot).any(axis=1).sum())
    sizes = [max(1, round(fraction * num_scored)) for fraction in options.top_fractions]
    found = follow_scores(zero_shot, one_shot, columns, lengths, sizes)
    text = found.pop("text")
    if options.group_by:
        groups = [str(value) for value in rows[options.group_by]]
        score = golden_scores(zero_shot, one_shot).golden_score
        measured_columns = [association["column"] for association in found["associations"]]
        numbers = {name: columns[name] for name in measured_columns if np.asarray(columns[name]).dtype.kind in "biuf"}
        found["within_groups"] = follow_within_groups(score, numbers, groups, lengths)
        for column, measured in found["within_groups"].items():
            text += "\n" + _group_line(options.group_by, column, measured)
    print(json.dumps(found) if options.json else text)
    return found


def _named_columns(options: argparse.Namespace, rows: Dataset) -> dict[str, Any]:
    """Return the columns that the options name, or all that describe rows."""
    named = list(options.columns or [])
    if options.group_by:
        named.append(options.group_by)
    unknown = sorted(set(named) - set(rows.column_names))
    if unknown:
        raise ValueError(
            f"`{unknown[0]}` must be a column of {options.dataset_name}, which has {', '.join(rows.column_names)}. "
            "Name one of them."
        )
    if options.columns:
        return {name: rows[name][:] for name in options.columns}
    return describing_columns(rows)


def _group_line(group_by: str, column: str, measured: dict[str, Any]) -> str:
    plain, equal = measured["plain"], measured["at_equal_length"]
    line = (
        f"within equal {group_by} ({plain['groups']:.0f} groups), golden score against {column}: rank correlation "
        f"{plain['mean']:+.2f} +- {plain['standard_error']:.2f}"
    )
    if equal is not None:
        line += f", at equal length {equal['mean']:+.2f} +- {equal['standard_error']:.2f}"
    return line


if __name__ == "__main__":
    sys.exit(run_program(sys.argv[0], parse, main))
