"""Which rows meet the condition `require`: in a run, and by the columns that an earlier run wrote.

Every run asks `rows_that_meet` with the columns of the whole pool, because a condition may name their percentiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from nuggets_trainer.config.requirement import BY_SET, MODEL_SIGNALS, ROW_SIGNALS, TOTAL_TOKENS, Requirement
from nuggets_trainer.golden.limits import FAILS_REQUIRE
from nuggets_trainer.golden.scores import GoldenScores
from nuggets_trainer.store.stored_scores import StoredScores
from nuggets_trainer.wording import counted

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

AGAIN = "Run the command that scored the pool again, on the same `score_dir`"


def rows_that_pass(
    requirement: Requirement | None, scores: GoldenScores, by_set: Mapping[str, Floats], signals: Mapping[str, Floats]
) -> Bools | None:
    """Find the rows that meet a condition, by their scores and signals.

    Args:
        requirement: the condition.
        scores: scores of the pool, `(n,)`.
        by_set: golden scores on each of several anchor sets, `(n,)`, by name.
        signals: signals of each row, `(n,)`, by name.

    Returns:
        Whether each row meets it, `(n,)`; None without a condition.

    Raises:
        ValueError: if a column is not there.
    """
    if requirement is None:
        return None
    columns = dict(signals)
    for name in GoldenScores.__dataclass_fields__:
        columns[name] = getattr(scores, name)
    for name, golden_score in by_set.items():
        columns[BY_SET + name] = golden_score
    return rows_that_meet(requirement, columns)


def rows_that_meet(requirement: Requirement, columns: Mapping[str, Floats]) -> Bools:
    """Find the rows that meet a condition.

    Args:
        requirement: the condition.
        columns: values of each column that it names, `(n,)` over all rows of the pool; NaN where a row has none.

    Returns:
        Whether each row meets it, `(n,)`.

    Raises:
        ValueError: if a column is not there.
    """
    requirement.check_columns(tuple(columns))
    passes: Bools = requirement.passes(columns, percentiles_of(requirement, columns))
    return passes


def percentiles_of(requirement: Requirement, columns: Mapping[str, Floats]) -> dict[tuple[str, int], float]:
    """Return the value of each percentile that a condition names, by column and percentage.

    It is that of `numpy.percentile` over the rows that have a finite value, rows that fail the condition included.
    Half of the rows are below `p50`, or fewer if rows tie at it: a row that ties is neither below nor above. If no row
    has a value, it is NaN, and no row meets the condition.

    Args:
        requirement: the condition.
        columns: values of each column with a percentile, `(n,)` over all rows of the pool; NaN where a row has none.
    """
    found = {}
    for column, percentage in requirement.percentiles:
        values = columns[column][np.isfinite(columns[column])]
        value = np.nan
        if len(values):
            value = float(np.percentile(values, percentage))
        found[column, percentage] = value
    return found


def percentiles_as_json(requirement: Requirement, columns: Mapping[str, Floats]) -> list[dict[str, Any]]:
    """Return column, percentage and value of each percentile that a condition names.

    Args:
        requirement: the condition.
        columns: values of each column with a percentile, `(n,)` over all rows of the pool; NaN where a row has none.
    """
    found = []
    for (column, percentage), value in percentiles_of(requirement, columns).items():
        found.append({"column": column, "percentage": percentage, "value": value})
    return found


def describe_percentiles(requirement: Requirement, columns: Mapping[str, Floats]) -> str:
    """Write a condition with the values of its percentiles, such as "`loss < p50` (p50 of loss: 2.134)".

    Args:
        requirement: the condition.
        columns: values of each column with a percentile, `(n,)` over all rows of the pool; NaN where a row has none.
    """
    values = []
    for (column, percentage), value in percentiles_of(requirement, columns).items():
        values.append(f"p{percentage} of {column}: {value:.4g}")
    if not values:
        return f"`{requirement.text}`"
    return f"`{requirement.text}` ({', '.join(values)})"


def rows_that_pass_stored(
    stored: StoredScores,
    requirement: Requirement | None,
    run_config: Mapping[str, Any],
    need_pairs: bool = True,
) -> Bools | None:
    """Find the rows that meet a condition, by the columns that an earlier run wrote.

    Args:
        stored: scores of that run, `(n,)`.
        requirement: the condition.
        run_config: config of that run, for the error.
        need_pairs: whether a row must be scored to be chosen.

    Returns:
        Whether each row meets it, `(n,)`; None without a condition.

    Raises:
        ValueError: if a column is not there or has no values, or if a row that was left out before its pairs meets
            this condition. The error says what to run.
    """
    passes = None
    if requirement is not None:
        check_computed(stored, requirement.columns, f"`require={requirement.text!r}`")
        if requirement.needs_scores and stored.eliminated.any():
            raise ValueError(
                f"`require={requirement.text!r}` needs scores that a race left out. {AGAIN} and with `--schedule "
                "exact`."
            )
        passes = rows_that_pass(requirement, stored, stored.by_set, stored.signals)
    left_out = stored.dropped_as(FAILS_REQUIRE)
    needed = left_out if passes is None else left_out & passes
    if need_pairs and needed.any():
        raise ValueError(
            f"{counted(int(needed.sum()), 'row')} of this golden set's candidates were not scored, because they did "
            f"not meet `require={run_config.get('require')!r}` (`fails_require`), and the race among the others left "
            f"them out. {AGAIN} and with the condition that you want: it scores what is missing and reuses the rest."
        )
    return passes


def check_computed(stored: StoredScores, columns: Iterable[str], what: str) -> None:
    """Refuse signals that a run did not write.

    Args:
        stored: scores of that run.
        columns: columns that are needed.
        what: option that needs them, for the error.

    Raises:
        ValueError: if signals are not there.
    """
    missing = [name for name in columns if name in ROW_SIGNALS and name not in stored.signals]
    if not missing:
        return
    how = ": it writes them, and computes no pair."  # an earlier version wrote no `repetition`
    if missing == [TOTAL_TOKENS]:
        how = f", and with {what}: it counts the tokens of each row, and reuses all stored pairs."
    elif not {*missing}.isdisjoint(MODEL_SIGNALS):
        option = "row_signals"
        if "ica" in missing:
            option = "ica"
        how = f" and with `--{option} true`: it computes the signals of each row, and no pair."
    raise ValueError(f"{what} needs the columns {missing}, which were not computed. {AGAIN}{how}")
