"""Rows chosen by the anchors in turn, as RDS+ chooses them: cosines in, the turn of each row out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LEAST_QUEUED = 1024  # rows; a queue of fewer would be made anew too often
SHARE_QUEUED = 0.25  # of the rows not taken yet: it bounds the memory, and the work of all refills together
LOOK_AHEAD = 64  # rows of a queue that are looked at together
# Rows in the queues of all anchors: 256 MB in 4 bytes each. A quarter of 10 million rows for each of 100 anchors took
# 2 GB in 8 bytes. Shorter queues are made anew more often, and sorted faster (docs/log/signals.md).
MOST_QUEUED = 2**26


def choose_in_turn(cosines: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Let the anchors choose rows in turn, until no row is left.

    The first anchor takes the row that is most similar to it. The second takes its own best of the others, and so on;
    after the last anchor it is the first one's turn again. This is the choice of RDS+ (2503.01807), carried on to the
    last row: the first k turns are its k rows. Among equally similar rows, an anchor takes the first. An anchor that
    has no row left to take is passed over.

    Args:
        cosines: cosine of each anchor and each row, `(m, n)`; NaN where the row is not compared with the anchor.

    Returns:
        Turn in which each row is taken, from 0, `(n,)`; NaN for a row that is compared with no anchor.

    Example:
        >>> choose_in_turn(np.array([[0.9, 0.8, 0.1], [0.7, 0.6, 0.2]], dtype=np.float32)).tolist()
        [0.0, 1.0, 2.0]
        >>> choose_in_turn(np.array([[0.1, 0.2, 0.3], [0.1, 0.4, np.nan]], dtype=np.float32)).tolist()
        [2.0, 1.0, 0.0]
    """
    turn = np.full(cosines.shape[1], np.nan)
    most_queued = MOST_QUEUED // max(1, len(cosines))
    is_free = np.ones(cosines.shape[1], dtype=np.bool_)
    num_taken = 0
    choosing = [_Queue(own, is_free, most_queued) for own in cosines]
    while choosing:
        left = []
        for queue in choosing:
            row = queue.next_row()
            if row is None:
                continue
            turn[row] = num_taken
            is_free[row] = False
            num_taken += 1
            left.append(queue)
        choosing = left
    return turn


class _Queue:
    """The best rows of one anchor that were not taken when the queue was made, best first.

    A full order of all rows for each anchor would take as much memory as the cosines, or twice as much.

    Args:
        cosines: cosine of the anchor and each row, `(n,)`.
        is_free: whether each row is not taken yet, `(n,)`; the caller keeps it up to date.
        most: largest number of rows of the queue, but for rows that tie with its last one, and at least 1,024.
    """

    def __init__(self, cosines: npt.NDArray[np.float32], is_free: npt.NDArray[np.bool_], most: int) -> None:
        self._cosines, self._is_free, self._most = cosines, is_free, most
        self._type = np.min_scalar_type(len(cosines))  # 4 bytes up to 4 billion rows
        self._rows = np.zeros(0, dtype=self._type)
        self._place = 0

    def next_row(self) -> int | None:
        """Return the best row that is not taken; None if there is none."""
        while True:
            while self._place < len(self._rows):
                seen = self._rows[self._place : self._place + LOOK_AHEAD]
                is_free = self._is_free[seen]
                first = int(is_free.argmax())
                if is_free[first]:
                    self._place += first
                    return int(seen[first])
                self._place += len(seen)
            self._refill()
            if not len(self._rows):
                return None

    def _refill(self) -> None:
        rows = np.flatnonzero(self._is_free & ~np.isnan(self._cosines))
        cosines = self._cosines[rows]
        size = max(LEAST_QUEUED, min(self._most, round(SHARE_QUEUED * len(rows))))
        if size < len(rows):
            last = np.partition(cosines, -size)[-size]
            is_queued = cosines >= last  # with all rows that tie with the last, so that the first of them comes first
            rows, cosines = rows[is_queued], cosines[is_queued]
        self._rows, self._place = rows[np.argsort(-cosines, kind="stable")].astype(self._type), 0
