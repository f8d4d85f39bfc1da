"""Which row of the pool a training step reads while the golden set changes. Knows no scores and no trainer.

A golden set has a fixed number of slots, so that the length of an epoch, the scheduler and resuming stay as they were
planned. The sampler shuffles slots; a slot becomes a row when it is drawn. Loaders draw ahead of the training step, by
a number of batches that is known but whose timing is not: so each change of rows holds from a position in the epoch
that no loader can have drawn yet, and a resumed job, which draws from the start of the epoch, sees the same rows.
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
    """Rows of the golden set by slot, and from when on.

    Args:
        rows: pool indices, one per slot; in force from the start.

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
        """Rows by slot as last refilled."""
        return self._rows[-1]

    def fill(self, rows: Sized) -> None:
        """Put the first golden set into the slots, before anything was drawn."""
        self.refill(rows, epoch=0, position=0)
        del self._starts[0], self._rows[0]
        self._rows[0].sort()

    def refill(self, rows: Sized, epoch: int, position: int) -> None:
        """Put a new golden set of the same size into the slots, from this position of this epoch on.

        Rows that stay keep their slot, so that an epoch shows none of them twice; new ones take, in pool order, the
        slots of those that left.
        """
        if len(rows) != len(self):
            raise ValueError(f"{len(rows)} rows do not fill {len(self)} slots.")
        if (epoch, position) < self._starts[-1]:
            raise ValueError(
                f"Slots were refilled for {self._starts[-1]} already, which is after {(epoch, position)}."
            )
        new = np.sort(np.asarray(rows, dtype=np.int64))
        slots = self.latest.copy()
        slots[~np.isin(slots, new)] = new[~np.isin(new, slots)]
        self._starts.append((epoch, position))
        self._rows.append(slots)

    def row(self, epoch: int, position: int, slot: int) -> int:
        """Pool index of the row that stands in this slot when that many rows of the epoch were drawn before it."""
        return int(self._rows[self._in_force(epoch, position)][slot])

    def _in_force(self, epoch: int, position: int) -> int:
        number = bisect.bisect_right(self._starts, (epoch, position)) - 1
        if number < 0:
            raise IndexError(
                f"What the slots held at {(epoch, position)} is forgotten; known from {self._starts[0]} on."
            )
        return number

    def forget_epochs_before(self, epoch: int) -> None:
        """Drop the refills that were replaced when this epoch began: a resumed job draws from its beginning."""
        first = self._in_force(epoch, 0)
        del self._starts[:first], self._rows[:first]

    def state(self) -> list[dict[str, Any]]:
        """Return what `from_state` takes, for a JSON file."""
        return [
            {"epoch": epoch, "position": position, "rows": rows.tolist()}
            for (epoch, position), rows in zip(self._starts, self._rows, strict=True)
        ]

    @classmethod
    def from_state(cls, state: list[dict[str, Any]]) -> Slots:
        """Build the slots that gave this `state`."""
        slots = cls(np.empty(0, dtype=np.int64))
        slots._starts = [(refill["epoch"], refill["position"]) for refill in state]
        slots._rows = [np.array(refill["rows"], dtype=np.int64) for refill in state]
        return slots


class SlotSampler(Sampler[int]):
    """Turns the slots that another sampler draws into pool indices.

    Args:
        sampler: draws slots in `[0, len(slots))`; reached by `set_epoch` of the loader.
        slots: what is in them.

    Attributes:
        epoch: the epoch to draw for next.
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
        """Seed the shuffling of this epoch."""
        if hasattr(self._sampler, "set_epoch"):
            self._sampler.set_epoch(epoch)


class SlotView(Dataset[Any]):
    """All prepared rows of the pool, read by pool index, but only as long as its golden set.

    Args:
        rows: prepared by TRL, in any order.
        place: position in `rows` of each pool index, `(n,)`; -1 where TRL left the row out.
        slots: for the length.
    """

    def __init__(self, rows: datasets.Dataset, place: Rows, slots: Slots) -> None:
        self._rows, self._place, self._length = rows, place, len(slots)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        return self._rows[int(self._place[index])]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return list(self._rows.__getitems__(self._place[indices].tolist()))
