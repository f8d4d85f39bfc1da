r"""What rankings of one scored pool are worth: tables from scores on disk, without a model.

```bash
nuggets score --model_name_or_path MODEL --dataset_name half_spoilt.jsonl --schedule exact --score_dir scores
python recipes/bench/signals.py --score_dir scores --dataset_name half_spoilt.jsonl --kind_column kind --good clean \
    --require "ifd < 0.9" "ifd < 0.9 and repetition < 0.3"
python recipes/bench/signals.py --score_dir scores --dataset_name natural.jsonl --label_column source
python recipes/bench/signals.py --score_dir scores --dataset_name rated.jsonl --value_column score
```

The rankings are those of `rank_by`, and the row signals where scores.parquet has them (`--row_signals true`). The
tables: reliability; the golden score of the chosen rows on anchors that had no part in the choice, by number of
anchors; with `--kind_column`, how well good rows are told from each other kind, and the share of good rows at the top,
also among rows that meet a condition of `--require`; with `--label_column`, where no label is known to be good, how
well the rows of each label are told from all others, and their share at the top; with `--value_column`, the rank
correlation with a column.
`recipes/study/pools.py` makes a pool of known kinds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from nuggets_trainer import load_rows
from nuggets_trainer.analysis.follows import completion_characters
from nuggets_trainer.analysis.signal_quality import (
    auc_by_kind,
    correlation_with_interval,
    good_share,
    score_on_unseen_anchors,
)
from nuggets_trainer.config.requirement import ROW_SIGNALS, Requirement
from nuggets_trainer.config.rule_options import RANK_BY
from nuggets_trainer.golden.reliability import measure_reliability
from nuggets_trainer.golden.scores import GoldenScores, golden_scores
from nuggets_trainer.store.read_results import read_log_probs
from nuggets_trainer.store.results import SCORES_FILE

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
# Of row signals: 1 if a high value is meant to be good.
SIGNS = {"loss": -1, "ifd": -1, "similarity": 1, "similarity_turn": -1, "ica": 1, "num_tokens": 1, "repetition": -1}
TOP = (0.01, 0.05, 0.1, 0.25)
NUM_SPLITS = 100


def value_of(name: str, zero_shot: Floats, one_shot: Floats) -> Floats:
    """Return the values that `rank_by` ranks by, `(n,)`."""
    values: Floats = getattr(golden_scores(zero_shot, one_shot), name)
    return values


def reliability(zero_shot: Floats, one_shot: Floats, fraction: float) -> dict[str, float]:
    """Return the reliability of each ranking by all anchors; a ranking in which all rows tie has 0."""
    found = measure_reliability(zero_shot, one_shot, round(fraction * len(one_shot)), num_draws=NUM_SPLITS)
    return {name: getattr(found, name) for name in RANK_BY}


def unseen_table(zero_shot: Floats, one_shot: Floats, numbers: list[int], fraction: float) -> dict[str, list[float]]:
    """Return the golden score on unseen anchors of each ranking, for each number of anchors."""
    table = {}
    for name in RANK_BY:
        rank = partial(value_of, name)
        table[name] = [
            score_on_unseen_anchors(zero_shot, one_shot, rank, number, fraction, NUM_SPLITS) for number in numbers
        ]
    return table


def read_rankings(score_dir: Path, zero_shot: Floats, one_shot: Floats) -> dict[str, Floats]:
    """Return all rankings of the pool, `(n,)` each: by the pairs, and by the row signals that were computed."""
    rankings = {name: value_of(name, zero_shot, one_shot) for name in RANK_BY}
    stored = pq.read_table(score_dir / SCORES_FILE)
    for name, sign in SIGNS.items():
        if name in stored.column_names:
            rankings[name] = sign * stored[name].to_numpy(zero_copy_only=False).astype(np.float64)
    return rankings


def read_columns(score_dir: Path, scores: GoldenScores) -> dict[str, Floats]:
    """Return the columns that a condition may name, `(n,)` each; the scores are those of all pairs."""
    columns: dict[str, Floats] = dict(vars(scores))
    stored = pq.read_table(score_dir / SCORES_FILE)
    for name in ROW_SIGNALS:
        if name in stored.column_names:
            columns[name] = stored[name].to_numpy(zero_copy_only=False).astype(np.float64)
    return columns


def kind_tables(rankings: dict[str, Floats], kinds: list[str], good: str, passes: dict[str, Bools]) -> dict[str, Any]:
    """Return the AUC by kind, and the share of good rows at the top, by ranking, with and without conditions.

    Args:
        rankings: rankings of the n rows.
        kinds: kind of each row.
        good: the kind that is good.
        passes: whether each row meets a condition, `(n,)`, by condition.
    """
    is_good = np.array([kind == good for kind in kinds])
    tables: dict[str, Any] = {"auc": {}, "good_at_top": {}, "good_at_top_of_filtered": {}, "kept": {}}
    for name, values in rankings.items():
        tables["auc"][name] = auc_by_kind(values, kinds, good)
        tables["good_at_top"][name] = [good_share(values, is_good, fraction) for fraction in TOP]
    others = sorted(set(kinds) - {good})
    for condition, met in passes.items():
        tables["kept"][condition] = [float(met[np.array(kinds) == kind].mean()) for kind in (good, *others)]
        for name in RANK_BY:
            filtered = np.where(met, rankings[name], np.nan)
            shares = [good_share(filtered, is_good, share) for share in TOP]
            tables["good_at_top_of_filtered"][f"`{condition}`, {name}"] = shares
    return tables


def label_tables(rankings: dict[str, Floats], labels: list[str], passes: dict[str, Bools]) -> dict[str, Any]:
    """Return what rankings and conditions do to the rows of each label; no label counts as good.

    Args:
        rankings: rankings of the n rows.
        labels: label of each row.
        passes: whether each row meets a condition, `(n,)`, by condition.

    Returns:
        `auc` of the rows of each label against all others, by ranking; `at_top`, the share of each label in the first
        rows, by label and ranking; `kept`, the share of each label's rows that meet a condition, by condition.
        `at_top` has the rankings among rows that meet a condition too.
    """
    label_of = np.array(labels)
    different = sorted(set(labels))
    filtered = dict(rankings)
    for condition, met in passes.items():
        for name in RANK_BY:
            filtered[f"`{condition}`, {name}"] = np.where(met, rankings[name], np.nan)
    tables: dict[str, Any] = {"auc": {}, "at_top": {}, "kept": {}}
    for name, values in rankings.items():
        tables["auc"][name] = [auc_by_kind(values, labels, label)["all"] for label in different]
    for label in different:
        own = label_of == label
        shares = {}
        for name, values in filtered.items():
            shares[name] = [good_share(values, own, fraction) for fraction in TOP]
        tables["at_top"][label] = shares
    for condition, met in passes.items():
        tables["kept"][condition] = [float(met[label_of == label].mean()) for label in different]
    return tables


def write_label_tables(column: str, labels: list[str], tables: dict[str, Any]) -> list[str]:
    """Write the tables of `label_tables`."""
    shares = Counter(labels)
    different = sorted(shares)
    texts = [markdown(f"AUC of rows by `{column}` against all others", different, tables["auc"])]
    for label in different:
        title = f"share of `{label}` at the top ({shares[label] / len(labels):.0%} of all rows)"
        texts.append(markdown(title, TOP, tables["at_top"][label]))
    if tables["kept"]:
        texts.append(markdown("share of rows that meet", different, tables["kept"]))
    return texts


def markdown(title: str, columns: Sequence[object], rows: Mapping[str, Sequence[Any]]) -> str:
    """Write a table; numbers have two decimals."""
    lines = [f"| {title} | {' | '.join(map(str, columns))} |", "|" + " --- |" * (len(columns) + 1)]
    for name, values in rows.items():
        cells = [value if isinstance(value, str) else f"{value:.2f}" for value in values]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--score_dir", type=Path, required=True, help="directory with the results of score_pool")
    parser.add_argument("--dataset_name", required=True, help="rows that were scored")
    parser.add_argument("--kind_column", help="column that says what kind of row it is")
    parser.add_argument("--good", default="clean", help="value of that column in good rows")
    parser.add_argument(
        "--label_column", nargs="+", default=[], help="columns of labels, none of which is the good one"
    )
    parser.add_argument("--value_column", help="column of numbers to compare the rankings with")
    parser.add_argument("--require", nargs="+", default=[], help="conditions on columns of scores.parquet, each alone")
    parser.add_argument("--num_anchors", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    parser.add_argument("--top_fraction", type=float, default=0.1, help="share of the rows that is chosen")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Print the tables; return their numbers."""
    options = make_parser().parse_args(list(argv))
    rows = load_rows(options.dataset_name)
    zero_shot, one_shot = read_log_probs(options.score_dir)
    usable = np.isfinite(one_shot).any(axis=1)
    anchors = np.isfinite(zero_shot)
    zero_shot, one_shot = zero_shot[anchors].astype(np.float64), one_shot[:, anchors].astype(np.float64)
    if np.isnan(one_shot[usable]).sum(axis=1).max() > 1:
        raise ValueError(f"{options.score_dir} lacks pairs, as after a race. Score with `--schedule exact` there.")
    rankings = read_rankings(options.score_dir, zero_shot, one_shot)
    numbers = [number for number in options.num_anchors if number <= len(zero_shot) // 2]
    found: dict[str, Any] = {
        "rows": int(usable.sum()),
        "anchors": len(zero_shot),
        "reliability": reliability(zero_shot, one_shot[usable], options.top_fraction),
        "unseen": unseen_table(zero_shot, one_shot[usable], numbers, options.top_fraction),
    }
    texts = [
        f"{found['rows']:,} rows, {found['anchors']} anchors\n",
        markdown("reliability", [""], {name: [value] for name, value in found["reliability"].items()}),
        markdown("golden score on unseen anchors, by number of anchors", numbers, found["unseen"]),
    ]
    columns = read_columns(options.score_dir, golden_scores(zero_shot, one_shot))
    passes = {condition: Requirement(condition).passes(columns) for condition in options.require}
    for column in options.label_column:
        labels = [str(label) for label in rows[column]]
        found.setdefault("labels", {})[column] = label_tables(rankings, labels, passes)
        texts += write_label_tables(column, labels, found["labels"][column])
    if options.kind_column:
        tables = kind_tables(rankings, rows[options.kind_column][:], options.good, passes)
        found |= tables
        kinds = list(next(iter(tables["auc"].values())))
        aucs = {name: list(auc.values()) for name, auc in tables["auc"].items()}
        texts.append(markdown(f"AUC of `{options.good}` against", kinds, aucs))
        texts.append(markdown(f"share of `{options.good}` at the top", TOP, tables["good_at_top"]))
        if options.require:
            texts.append(markdown("share of rows that meet", [options.good, *kinds[:-1]], tables["kept"]))
            texts.append(markdown("the same, of rows that meet", TOP, tables["good_at_top_of_filtered"]))
    if options.value_column:
        column = np.array(rows[options.value_column][:], dtype=np.float64)
        rankings["completion_characters"] = completion_characters(rows)
        found["correlation"] = {name: correlation_with_interval(values, column) for name, values in rankings.items()}
        texts.append(
            markdown(f"rank correlation with `{options.value_column}`", ["", "95% from", "to"], found["correlation"])
        )
    print(json.dumps(found) if options.json else "\n".join(texts))
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
