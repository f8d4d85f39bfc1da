"""Values of rows in the store, under names that no anchor has: which are missing, those computed, all as columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from nuggets_trainer.data.row import UnusableRowError
from nuggets_trainer.golden.arrays import row_blocks
from nuggets_trainer.scoring.progress import Phase, show_phase
from nuggets_trainer.scoring.session import ScoringSession
from nuggets_trainer.store.score_store import PartWriter, known

Row = TypeVar("Row")


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
    matrix = session.store.read_matrix(list(first), names, session.scratch)
    rows = list(first.values())
    missing_by_pattern: dict[bytes, list[str]] = {}  # most rows lack the same names: one list serves them all
    wanted = {}
    for block in row_blocks(len(rows)):
        is_known = known(matrix[block])
        for place in np.flatnonzero(~is_known.all(axis=1)).tolist():
            pattern = is_known[place].tobytes()
            if pattern not in missing_by_pattern:
                missing_by_pattern[pattern] = [names[j] for j in np.flatnonzero(~is_known[place])]
            i = rows[block.start + place]
            wanted[i] = Wanted(i, missing_by_pattern[pattern])
    return [wanted[i] for i in session.pool.longest_first(list(wanted))]


def share_missing(session: ScoringSession, candidates: list[int], names: list[str]) -> float:
    """Return the share of the different candidates whose values are not all stored; all ranks must call it."""

    def find() -> float:
        num_different = len({session.keys[i] for i in candidates})
        return len(find_missing(session, candidates, names)) / max(1, num_different)

    return session.ranks.on_main(find)


def compute_missing(
    session: ScoringSession,
    wanted: list[Wanted],
    title: str,
    compute: Callable[[list[Wanted], PartWriter, Phase], None],
) -> None:
    """Compute missing values into the store, each rank those of its share of the rows; all ranks must call it.

    Args:
        session: open session of the pool.
        wanted: rows with missing values.
        title: name of the phase in the progress.
        compute: function that computes the values of this rank's rows; forward passes of the ranks are in step.
    """
    own = session.ranks.share(wanted)
    with (
        PartWriter(session.store) as writer,
        show_phase(title, "rows", len(own), session.ranks.is_main) as phase,
    ):

        def compute_own() -> list[None]:
            with session.passes.in_step():
                compute(own, writer, phase)
            writer.flush()
            return []

        session.ranks.gather_from(compute_own)


def rendered_batches(
    session: ScoringSession,
    own: list[Wanted],
    writer: PartWriter,
    render: Callable[[Wanted], tuple[Row, int]],
    least_tokens: Callable[[], float],
) -> Iterator[list[Row]]:
    """Yield as many rendered rows as make a call of the engine worthwhile.

    A row that cannot be rendered is stored with NaN for all its missing values.

    Args:
        session: open session of the pool.
        own: rows of this rank.
        writer: writes into the store.
        render: function that gives a row rendered, and its number of tokens.
        least_tokens: function that gives the tokens from which a batch is full.
    """
    batch: list[Row] = []
    num_tokens = 0
    for wanted in own:
        try:
            row, size = render(wanted)
        except UnusableRowError:
            nothing = np.full(len(wanted.names), np.nan, dtype=np.float32)
            writer.add(session.keys[wanted.index], wanted.names, nothing)
            continue
        batch.append(row)
        num_tokens += size
        if num_tokens >= least_tokens():
            yield batch
            batch, num_tokens = [], 0
    if batch:
        yield batch


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
    columns = []
    for value in read_values(session, candidates, names).T.astype(np.float64):
        column = np.full(len(session.pool), np.nan)
        column[candidates] = value
        columns.append(column)
    return columns


def read_values(session: ScoringSession, candidates: list[int], names: list[str]) -> npt.NDArray[np.float32]:
    """Read values of the candidates, once they are stored, as one matrix.

    Args:
        session: open session of the pool.
        candidates: pool indices of the candidates.
        names: names of the values; repeats are allowed.

    Returns:
        Values `(len(candidates), len(names))`, possibly in a file.

    Raises:
        RuntimeError: if the ranks do not share the store's file system.
    """
    values = session.store.read_matrix([session.keys[i] for i in candidates], names, session.scratch)
    num_missing = 0
    for block in row_blocks(len(values)):
        num_missing += int((~known(values[block])).sum())
    if num_missing:
        raise RuntimeError(
            f"{num_missing:,} values that other ranks computed are not in {session.store.directory}. Is "
            "`score_dir` on a file system that all ranks share?"
        )
    return values
