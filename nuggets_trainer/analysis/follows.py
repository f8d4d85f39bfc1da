"""What golden scores follow, from scores on disk: columns of the rows, and the choice of the anchors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import ClassLabel, Dataset, Value
from scipy import stats

from nuggets_trainer.analysis.association import associate, without_length
from nuggets_trainer.data.formats import ROW_COLUMNS
from nuggets_trainer.data.pool import Pool
from nuggets_trainer.data.row import UnusableRowError, joined_text
from nuggets_trainer.golden.reliability import FEWEST_ANCHORS, complete_pairs, measure_reliability
from nuggets_trainer.golden.scores import golden_scores
from nuggets_trainer.wording import counted

Floats = npt.NDArray[np.floating]


def describing_columns(rows: Dataset) -> dict[str, list[Any]]:
    """Return the columns that describe rows, by name: one number, truth value or text for each row.

    Columns of lists, records, images and the like have no order and no groups, so nothing can follow them.
    """
    columns = {}
    for name, feature in rows.features.items():
        if name not in ROW_COLUMNS and isinstance(feature, (Value, ClassLabel)):
            columns[name] = rows[name][:]
    return columns


def follow_scores(
    zero_shot: Floats, one_shot: Floats, columns: Mapping[str, Any], lengths: Floats, sizes: Sequence[int]
) -> dict[str, Any]:
    """Compare golden scores with columns, and measure their reliability for each size of the golden set.

    Args:
        zero_shot: zero-shot log-probs, `(m,)`.
        one_shot: one-shot log-probs, `(n, m)`.
        columns: values `(n,)` by column name.
        lengths: lengths of the completions, `(n,)`.
        sizes: sizes of golden sets.

    Returns:
        `associations` and `reliability`, ready for JSON, and `text` for the terminal. With fewer than four anchors
        `reliability` is empty, and `text` says so.
    """
    score = golden_scores(zero_shot, one_shot).golden_score
    associations, reliabilities, lines = [], [], []
    for name, values in columns.items():
        association = associate(score, name, values, lengths)
        if association is not None:
            associations.append(dataclasses.asdict(association))
            lines.append(f"golden score against {association.describe()}")
    num_anchors = complete_pairs(zero_shot, one_shot)[1].shape[1]
    if sizes and num_anchors < FEWEST_ANCHORS:
        lines.append(
            f"reliability is not measured: it compares halves of the anchors, which takes {FEWEST_ANCHORS} of them, "
            f"and {counted(num_anchors, 'anchor')} could be scored"
        )
        sizes = []
    for k in sizes:
        reliability = measure_reliability(zero_shot, one_shot, k)
        reliabilities.append(dataclasses.asdict(reliability))
        lines += [f"golden set of {k:,}: {line}" for line in reliability.describe().splitlines()]
    return {"associations": associations, "reliability": reliabilities, "text": "\n".join(lines)}


def within_groups(score: Floats, values: Floats, groups: Sequence[str], lengths: Floats | None) -> dict[str, float]:
    """Return the rank correlation of score and values inside each group: mean over groups and its standard error.

    Args:
        score: golden scores, `(n,)`.
        values: numbers to compare with, `(n,)`.
        groups: name of each row's group, `(n,)`.
        lengths: lengths of the completions, whose effect is removed inside each group; None to leave it in.

    Raises:
        ValueError: if fewer than two groups can be measured.
    """
    found = []
    usable = np.isfinite(score) & np.isfinite(values)
    group_of = np.asarray(groups)
    for group in np.unique(group_of):
        rows = usable & (group_of == group)
        if rows.sum() < 4:
            continue
        a, b = stats.rankdata(score[rows]), stats.rankdata(values[rows])
        if lengths is not None:
            a, b = without_length(a, lengths[rows]), without_length(b, lengths[rows])
        if a.std() > 1e-9 and b.std() > 1e-9:
            found.append(float(np.corrcoef(a, b)[0, 1]))
    if len(found) < 2:
        raise ValueError(
            "`--group_by` compares rows within groups, but fewer than two groups have four or more rows whose scores "
            "and values differ. Name a column that more rows share, or leave it out."
        )
    return {"mean": float(np.mean(found)), "standard_error": float(stats.sem(found)), "groups": len(found)}


def follow_within_groups(
    score: Floats, columns: Mapping[str, Any], groups: Sequence[str], lengths: Floats
) -> dict[str, dict[str, Any]]:
    """Measure `within_groups` for each column, plain and at equal length.

    Args:
        score: golden scores, `(n,)`.
        columns: numbers `(n,)` by column name.
        groups: name of each row's group, `(n,)`.
        lengths: lengths of the completions, `(n,)`.

    Returns:
        `plain` and `at_equal_length` by column name; the latter is None if the column is the length itself.
    """
    found = {}
    for name, column in columns.items():
        values = np.asarray(column, dtype=np.float64)
        at_equal_length = None
        if not np.array_equal(values, lengths, equal_nan=True):
            at_equal_length = within_groups(score, values, groups, lengths)
        found[name] = {"plain": within_groups(score, values, groups, None), "at_equal_length": at_equal_length}
    return found


def completion_characters(rows: Dataset) -> Floats:
    """Return the length of each completion in characters, `(n,)`; tokens for tokenized rows, NaN for unusable rows."""
    pool = Pool(rows)
    lengths = np.full(len(rows), np.nan)
    for i in range(len(pool)):
        try:
            row = pool[i]
        except UnusableRowError:
            continue
        lengths[i] = len(joined_text(row.completion)) if row.tokens is None else len(row.tokens[1])
    return lengths
