"""Values of rows in the store, under names that no anchor has: which are missing, and all of them as columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nuggets_trainer.scoring.session import ScoringSession


@dataclass(frozen=True)
class Wanted:
    """A row with values that are not stored.

    Attributes:
        index: pool index of the row.
        names: names of the missing values.
    """

    index: int
    names: list[str]


def find_missing(session: ScoringSession, candidates: list[int], names: list[str]) -> list[Wanted]:
    """Find the different rows with values that are not stored, longest first.

    Args:
        session: open session of the pool.
        candidates: pool indices of the candidates.
        names: names of the values.
    """
    first: dict[str, int] = {}
    for i in candidates:
        first.setdefault(session.keys[i], i)
    _, there = session.store.read(list(first), names)
    wanted = {}
    for i, known in zip(first.values(), there, strict=True):
        missing = [name for name, is_known in zip(names, known, strict=True) if not is_known]
        if missing:
            wanted[i] = Wanted(i, missing)
    return [wanted[i] for i in session.pool.longest_first(list(wanted))]


def share_missing(session: ScoringSession, candidates: list[int], names: list[str]) -> float:
    """Return the share of the different candidates whose values are not all stored; all ranks must call it."""

    def find() -> float:
        num_different = len({session.keys[i] for i in candidates})
        return len(find_missing(session, candidates, names)) / max(1, num_different)

    return session.ranks.on_main(find)


def read_columns(session: ScoringSession, candidates: list[int], names: list[str]) -> list[npt.NDArray[np.float64]]:
    """Read values of the candidates, once they are stored.

    Args:
        session: open session of the pool.
        candidates: pool indices of the candidates.
        names: names of the values.

    Returns:
        One column per name, `(n,)` over the pool's rows; NaN for rows that are no candidates.

    Raises:
        RuntimeError: if the ranks do not share the store's file system.
    """
    values, there = session.store.read([session.keys[i] for i in candidates], names)
    if not there.all():
        raise RuntimeError(
            f"{int((~there).sum()):,} values that other ranks computed are not in {session.store.directory}. Is "
            "`score_dir` on a file system that all ranks share?"
        )
    columns = []
    for value in values.T.astype(np.float64):
        column = np.full(len(session.pool), np.nan)
        column[candidates] = value
        columns.append(column)
    return columns
