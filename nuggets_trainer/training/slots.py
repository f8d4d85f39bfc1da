"""Slots: the row of the pool that a training step reads while the golden set changes.

A golden set has a fixed number of slots, so that the length of an epoch, the learning rate schedule and resuming stay
as they were planned. The sampler shuffles slots. A slot becomes a row when it is drawn.

A loader draws some batches ahead of the training step. How many at most is known, but not when it draws them. A new
golden set therefore takes effect at a position of the epoch that no loader can have reached yet. A resumed job draws
the epoch again from its start and reads the same rows.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sized
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset, Sampler

if TYPE_CHECKING:
    import datasets

Rows = npt.NDArray[np.int64]


class Slots:
    """Rows of the golden set by slot, and the position from which each golden set is in force.

    Args:
        rows: pool indices, one per slot; in force from the first row of the first epoch.

    Example:
        >>> slots = Slots(np.array([3, 5, 8]))
        >>> slots.refill([8, 1, 3], epoch=0, position=2)
        >>> [slots.row(0, 1, slot) for slot in range(3)], [slots.row(0, 2, slot) for slot in range(3)]
        ([3, 5, 8], [3, 1, 8])
    """

    def __init__(self, rows: Rows) -> None:
        self._starts: list[tuple[int, int]] = [(0, 0)]
        self._rows: list[Rows] = [rows]

    def __len__(self) -> int:
        return len(self._rows[0])

    @property
    def latest(self) -> Rows:
        """Pool indices of the latest golden set, one per slot."""
        return self._rows[-1]

    def fill(self, rows: Sized) -> None:
        """Put the first golden set into the slots, in pool order, before a row is drawn."""
        self.refill(rows, epoch=0, position=0)
        del self._starts[0], self._rows[0]
        self._rows[0].sort()

    def refill(self, rows: Sized, epoch: int, position: int) -> None:
        """Put a new golden set of the same size into the slots.

        A row that was in the last golden set keeps its slot, so that no epoch reads it twice. New rows take the slots
        that became free, in pool order.

        Args:
            rows: pool indices of the new golden set.
            epoch: number of the epoch, from 0, in which it takes effect.
            position: number of rows of this epoch that are drawn before it takes effect.
        """
        if len(rows) != len(self):
            raise ValueError(f"A golden set of {len(rows)} rows does not fill {len(self)} slots.")
        if (epoch, position) < self._starts[-1]:
            raise ValueError(
                f"The slots were refilled at (epoch, position) {self._starts[-1]}, so they cannot be refilled at the "
                f"earlier {(epoch, position)}."
            )
        new = np.sort(np.asarray(rows, dtype=np.int64))
        slots = self.latest.copy()
        free = ~np.isin(slots, new)
        is_new = ~np.isin(new, slots)
        slots[free] = new[is_new]
        self._starts.append((epoch, position))
        self._rows.append(slots)

    def row(self, epoch: int, position: int, slot: int) -> int:
        """Return the pool index of the row in this slot, if `position` rows of the epoch were drawn before."""
        return int(self._rows[self._in_force(epoch, position)][slot])

    def _in_force(self, epoch: int, position: int) -> int:
        number = bisect.bisect_right(self._starts, (epoch, position)) - 1
        if number < 0:
            raise IndexError(
                f"The rows in the slots at (epoch, position) {(epoch, position)} are forgotten; they are known from "
                f"{self._starts[0]} on."
            )
        return number

    def forget_epochs_before(self, epoch: int) -> None:
        """Forget golden sets that were replaced before this epoch: a resumed job draws from its first row on."""
        first = self._in_force(epoch, 0)
        del self._starts[:first], self._rows[:first]

    def state(self) -> list[dict[str, Any]]:
        """Return the rows over time as JSON values, see `from_state`."""
        return [
            {"epoch": epoch, "position": position, "rows": rows.tolist()}
            for (epoch, position), rows in zip(self._starts, self._rows, strict=True)
        ]

    @classmethod
    def from_state(cls, state: list[dict[str, Any]]) -> Slots:
        """Build slots from the result of `state`."""
        slots = cls(np.empty(0, dtype=np.int64))
        slots._starts = [(refill["epoch"], refill["position"]) for refill in state]
        slots._rows = [np.array(refill["rows"], dtype=np.int64) for refill in state]
        return slots


class SlotSampler(Sampler[int]):
    """Sampler that replaces the slots drawn by another sampler by pool indices.

    Args:
        sampler: sampler that draws slots in `[0, len(slots))`.
        slots: rows by slot.

    Attributes:
        epoch: number of the epoch that is drawn next.
    """

    def __init__(self, sampler: Any, slots: Slots) -> None:
        self._sampler, self._slots = sampler, slots
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[int]:
        epoch = self.epoch
        for position, slot in enumerate(self._sampler):
            yield self._slots.row(epoch, position, slot)

    def set_epoch(self, epoch: int) -> None:
        """Tell the other sampler the epoch, which seeds its shuffling."""
        if hasattr(self._sampler, "set_epoch"):
            self._sampler.set_epoch(epoch)


class SlotView(Dataset[Any]):
    """All prepared rows of the pool, read by pool index; its length is that of the golden set.

    Args:
        rows: rows as the trainer prepared them, in any order.
        place: position in `rows` of each pool index, `(n,)`; -1 if the trainer left the row out.
        slots: slots of the golden set; their number is the length.
    """

    def __init__(self, rows: datasets.Dataset, place: Rows, slots: Slots) -> None:
        self._rows, self._place, self._length = rows, place, len(slots)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        return self._rows[int(self._place[index])]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return list(self._rows.__getitems__(self._place[indices].tolist()))
