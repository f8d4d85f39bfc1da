"""The rows that a trainer reads, made of a golden set: prepared once, or refilled in slots. Knows no scores."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nuggets_trainer.slots import Slots, SlotSampler, SlotView

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    from nuggets_trainer.pool import Pool

logger = logging.getLogger(__name__)

ROW_INDEX = "_nuggets_index"
UNTRAINABLE = "no_completion_in_max_length"


class TrainingSet:
    """Makes golden sets the training set of one trainer.

    Args:
        trainer: built; gets its `train_dataset`.
        pool: the candidates.
        prepare: turns rows of the pool into what the trainer reads.
    """

    def __init__(self, trainer: Trainer, pool: Pool, prepare: Callable[[Dataset], Dataset]) -> None:
        self._trainer, self._pool, self._prepare = trainer, pool, prepare
        self._whole: tuple[Dataset, npt.NDArray[np.int64]] | None = None
        self._sampler: SlotSampler | None = None
        self.slots: Slots | None = None

    def use(self, indices: npt.NDArray[np.int64]) -> None:
        """Train on these rows, in pool order, prepared as the trainer would have prepared them in the pool."""
        rows, args = self._pool.dataset.select(np.sort(indices)), self._trainer.args
        prepared = self._prepare(rows)
        if not getattr(args, "packing", False) and len(prepared) < len(rows):
            logger.warning(
                "TRL left %d of the %d rows of the golden set out of training: cut at `max_length=%s`, they have no "
                "completion token. Raise `max_length`.",
                len(rows) - len(prepared),
                len(rows),
                args.max_length,
            )
        self._trainer.train_dataset = prepared

    def prepare_whole_pool(self) -> None:
        """Prepare every row that may ever be in a slot; rows that TRL leaves out are candidates no more."""
        prepared = self._prepare(self._usable_rows())
        place = np.full(len(self._pool), -1, dtype=np.int64)
        place[np.array(prepared[ROW_INDEX], dtype=np.int64)] = np.arange(len(prepared))
        self._pool.exclude({int(i): UNTRAINABLE for i in np.flatnonzero(place < 0)})
        self._whole = prepared.remove_columns(ROW_INDEX), place

    def use_slots(self, slots: Slots) -> None:
        """Train on what these slots hold, as they are refilled; after `prepare_whole_pool`."""
        assert self._whole is not None
        self.slots = slots
        self._trainer.train_dataset = SlotView(*self._whole, slots)

    def loader(self, make_loader: Callable[[], Any]) -> Any:
        """Make the trainer's loader over the training set; over slots it reads what they hold when it draws them."""
        loader = make_loader()
        if self.slots is not None:
            self._sampler = SlotSampler(loader.get_sampler(), self.slots)
            loader.set_sampler(self._sampler)
        return loader

    def full_steps(self) -> int:
        """Optimizer steps of `num_train_epochs` over the whole pool, as the Trainer counts them."""
        whole = self._prepare(self._usable_rows()) if self._whole is None else self._whole[0]
        args = self._trainer.args
        batches: float = len(whole) / (args.train_batch_size * args.world_size)
        batches = int(batches) if args.dataloader_drop_last else math.ceil(batches)
        steps = max(1, math.ceil(batches / int(args.gradient_accumulation_steps)))
        return math.ceil(float(args.num_train_epochs) * steps)

    def steps_per_epoch(self, loader: Any) -> int:
        """Optimizer steps of one pass over the training set."""
        accumulation = int(self._trainer.args.gradient_accumulation_steps)
        return max(1, math.ceil(len(loader) / accumulation))

    def begin_epoch(self, step: int, loader: Any) -> None:
        """Draw for the epoch in which that many optimizer steps are behind."""
        if self._sampler is not None:
            self._sampler.epoch = step // self.steps_per_epoch(loader)

    def forget_before(self, step: int, loader: Any) -> None:
        """Drop what no step after this one can read."""
        assert self.slots is not None
        self.slots.forget_before(*self._position(step, loader, ahead=0))

    def refill(self, indices: npt.NDArray[np.int64], step: int, loader: Any) -> None:
        """Put another golden set into the slots, from the first row on that no loader can have drawn after this step.

        That is the next epoch's first row after the last step of an epoch; else the loader looks one batch ahead, and
        its workers some more.
        """
        assert self.slots is not None
        args = self._trainer.args
        ahead = 2 + args.dataloader_num_workers * (args.dataloader_prefetch_factor or 2)
        self.slots.refill(indices, *self._position(step, loader, ahead))

    def _position(self, step: int, loader: Any, ahead: int) -> tuple[int, int]:
        """Epoch, and rows of all ranks that were drawn in it after this step and some batches."""
        epoch, steps = divmod(step, self.steps_per_epoch(loader))
        batches = steps * self._trainer.args.gradient_accumulation_steps + ahead
        return epoch, batches * int(loader.total_batch_size) if steps else 0

    def _usable_rows(self) -> Dataset:
        _, dropped = self._pool.read_keys()
        usable = [i for i in range(len(self._pool)) if i not in dropped]
        return self._pool.dataset.select(usable).add_column(ROW_INDEX, usable)


def check_refillable(args: TrainingArguments) -> None:
    """Refuse arguments under which single rows cannot be exchanged while training goes on.

    Raises:
        ValueError: with packing, with a batch size or an order that is not known beforehand.
    """
    if getattr(args, "packing", False):
        raise ValueError(
            "`reselect` exchanges single rows, but `packing=True` mixes several in one. Set `packing=False` "
            "(`padding_free=True` wastes no padding either)."
        )
    if args.auto_find_batch_size:
        raise ValueError(
            "`reselect` plans with one batch size, which `auto_find_batch_size` may change midway. Set "
            "`per_device_train_batch_size`."
        )
    strategy = getattr(args, "train_sampling_strategy", "random")
    if strategy not in ("random", "sequential"):
        raise ValueError(
            f"`reselect` needs an order that does not depend on the rows, but `train_sampling_strategy={strategy!r}` "
            "sorts them by length. Use 'random' or 'sequential'."
        )
