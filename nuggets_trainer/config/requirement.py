"""`Requirement`: a condition on the columns of scores.parquet, such as `ifd < 0.98 and num_tokens >= 5`.

Its text is read by Python's parser, but only comparisons of columns, numbers and percentiles, `and`, `or`, `not` and
brackets are understood. Nothing is called or looked up. A percentile, such as `p50` in `loss < p50`, is a number that
only the whole pool gives: `pipeline.row_filter` computes it.
"""

from __future__ import annotations

import ast
import itertools
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Signals of a row by itself: those that take forward passes, and all.
MODEL_SIGNALS = ("loss", "loss_without_prompt", "ifd", "similarity", "similarity_turn", "num_tokens", "ica")
TOTAL_TOKENS = "total_tokens"
ROW_SIGNALS = (*MODEL_SIGNALS, "repetition", TOTAL_TOKENS)
SCORE_COLUMNS = (
    *("golden_score", "standard_error", "mean_gain", "mean_gain_error", "gain", "gain_error"),
    "num_anchors",
)
BY_SET = "golden_score_"  # and the name of the anchor set

COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
PERCENTILE = re.compile(r"p(\d+)")
Percentiles = Mapping[tuple[str, int], float]  # value by column and percentage
MOST_SHOWN = 200  # characters of a condition in an error
EXAMPLE = "ifd < 0.98 and num_tokens >= 5"


class Requirement:
    """A condition that a row has to meet, to be in the golden set.

    Args:
        text: the condition: comparisons (`<`, `<=`, `>`, `>=`, `==`, `!=`) of columns and numbers, joined by `and`,
            `or`, `not` and brackets. `p0` to `p100`, such as `p50`, is this percentile of the column that it is
            compared with, a signal of each row.

    Attributes:
        text: the condition as it was given.
        columns: columns that it names, in order.
        percentiles: column and percentage of each percentile that it names.

    Raises:
        ValueError: if it is anything else; the error says what was not understood.

    Example:
        >>> import numpy as np
        >>> requirement = Requirement("ifd < 0.98 and not num_tokens < 5")
        >>> requirement.columns
        ('ifd', 'num_tokens')
        >>> requirement.passes({"ifd": np.array([0.5, 1.1, np.nan]), "num_tokens": np.array([9, 9, 9])}).tolist()
        [True, False, False]
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
            names = _check(self._tree)
            percentiles = _check_percentiles(self._tree)
        except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
            reason = error.msg if isinstance(error, SyntaxError) else str(error)
            raise ValueError(
                f"`require` must compare columns with numbers, like {EXAMPLE!r}, got {text[:MOST_SHOWN]!r}: {reason}. "
                f"{_which_columns((*ROW_SIGNALS, *SCORE_COLUMNS))}"
            ) from error
        self.columns = tuple(dict.fromkeys(names))
        self.percentiles = tuple(dict.fromkeys(percentiles))

    @property
    def needs_scores(self) -> bool:
        """Whether it names a column that is known only when the pairs of a row are scored."""
        return any(name not in ROW_SIGNALS for name in self.columns)

    def check_names(self) -> None:
        """Refuse a column that no scores have; anchor sets, which may not be known yet, may have any name.

        Raises:
            ValueError: if there is one.
        """
        self.check_columns((*known_columns(), *(name for name in self.columns if name.startswith(BY_SET))))

    def check_columns(self, known: Sequence[str]) -> None:
        """Refuse a column that there is not.

        Args:
            known: the columns that there are.

        Raises:
            ValueError: if a column is not one of them.
        """
        unknown = [name for name in self.columns if name not in known]
        if unknown:
            raise ValueError(
                f"`require={self.text!r}` names {', '.join(map(repr, unknown))}, which is no column of the scores. "
                f"{_which_columns(known)}"
            )

    def passes(self, columns: Mapping[str, Any], percentiles: Percentiles | None = None) -> Any:
        """Find the rows that meet the condition.

        Args:
            columns: values of each column that it names, an array `(n,)`; NaN where a row has none.
            percentiles: value of each percentile that it names, by column and percentage; a NaN is above and below
                nothing. None if it names none.

        Returns:
            Whether each row meets it, `(n,)`. A row without a value in one of the columns does not.

        Raises:
            ValueError: if a column is not there.
        """
        self.check_columns(tuple(columns))
        met = _evaluate(self._tree, columns, percentiles or {})
        for name in self.columns:
            met = met & (columns[name] == columns[name])  # NaN is unlike itself
        return met


def known_columns(set_names: Sequence[str] = ()) -> tuple[str, ...]:
    """List the columns that a condition may name.

    Args:
        set_names: names of the anchor sets, where there are several.
    """
    return (*ROW_SIGNALS, *SCORE_COLUMNS, *(BY_SET + name for name in set_names))


def _which_columns(known: Sequence[str]) -> str:
    return f"The columns are {', '.join(known)}."


def _check(tree: ast.expr) -> list[str]:
    """Check a condition, and return the columns that it names; percentiles are numbers here."""
    names: list[str] = []
    if isinstance(tree, ast.BoolOp):
        for value in tree.values:
            names += _check(value)
        return names
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.Not):
        return _check(tree.operand)
    if not isinstance(tree, ast.Compare):
        raise ValueError(f"{ast.unparse(tree)!r} is no comparison")
    for operation in tree.ops:
        if type(operation) not in COMPARISONS:
            raise ValueError(f"{ast.unparse(tree)!r} compares by something else than <, <=, >, >=, == and !=")
    for operand in (tree.left, *tree.comparators):
        if _percentage(operand) is not None:
            continue
        if isinstance(operand, ast.Name):
            names.append(operand.id)
        else:
            _number(operand)
    if not names:
        raise ValueError(f"{ast.unparse(tree)!r} names no column")
    return names


def _check_percentiles(tree: ast.expr) -> list[tuple[str, int]]:
    """Check the percentiles of a condition, and return column and percentage of each."""
    found = []
    for comparison in ast.walk(tree):
        if not isinstance(comparison, ast.Compare):
            continue
        operands = [comparison.left, *comparison.comparators]
        for left, right in itertools.pairwise(operands):
            for operand, other in ((left, right), (right, left)):
                percentage = _percentage(operand)
                if percentage is not None:
                    found.append((_column_of(operand, other, percentage), percentage))
    return found


def _column_of(operand: ast.expr, other: ast.expr, percentage: int) -> str:
    """Return the column of a percentile: what it is compared with, which must be a signal of each row."""
    if not 0 <= percentage <= 100:
        raise ValueError(f"{ast.unparse(operand)!r} must be one of the percentiles p0 to p100")
    if not isinstance(other, ast.Name) or _percentage(other) is not None:
        raise ValueError(
            f"the percentile {ast.unparse(operand)!r} must be compared with a column, whose percentile it then is, "
            f"got {ast.unparse(other)!r}"
        )
    if other.id in SCORE_COLUMNS or other.id.startswith(BY_SET):
        raise ValueError(
            f"the percentile {ast.unparse(operand)!r} must be compared with a signal of each row, but {other.id!r} is "
            "known only when all pairs are scored (`top_fraction` keeps a share of the best rows)"
        )
    return other.id


def _percentage(tree: ast.expr) -> int | None:
    """Return the percentage of a percentile, 50 for `p50`; None for anything else."""
    found = PERCENTILE.fullmatch(tree.id) if isinstance(tree, ast.Name) else None
    return None if found is None else int(found.group(1))


def _number(tree: ast.expr) -> float:
    """Return the value of a number, which may have a sign."""
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, (ast.USub, ast.UAdd)):
        value = _number(tree.operand)
        return -value if isinstance(tree.op, ast.USub) else value
    if isinstance(tree, ast.Constant) and isinstance(tree.value, (int, float)) and not isinstance(tree.value, bool):
        return float(tree.value)
    raise ValueError(f"{ast.unparse(tree)!r} is neither a column nor a number")


def _evaluate(tree: ast.expr, columns: Mapping[str, Any], percentiles: Percentiles) -> Any:
    """Return whether each row meets a condition that is checked already, `(n,)`; a NaN is below and above nothing."""
    if isinstance(tree, ast.BoolOp):
        join = operator.and_ if isinstance(tree.op, ast.And) else operator.or_
        met = _evaluate(tree.values[0], columns, percentiles)
        for value in tree.values[1:]:
            met = join(met, _evaluate(value, columns, percentiles))
        return met
    if isinstance(tree, ast.UnaryOp):
        return ~_evaluate(tree.operand, columns, percentiles)
    assert isinstance(tree, ast.Compare), tree
    met = True
    left = tree.left
    for operation, right in zip(tree.ops, tree.comparators, strict=True):
        values = _operand(left, right, columns, percentiles), _operand(right, left, columns, percentiles)
        met = met & COMPARISONS[type(operation)](*values)
        left = right
    return met


def _operand(tree: ast.expr, other: ast.expr, columns: Mapping[str, Any], percentiles: Percentiles) -> Any:
    """Return the values of one side of a comparison; a percentile is one of the column on the other side."""
    if not isinstance(tree, ast.Name):
        return _number(tree)
    percentage = _percentage(tree)
    if percentage is None:
        return columns[tree.id]
    assert isinstance(other, ast.Name), other
    return percentiles[other.id, percentage]
