"""The rows that a trainer reads: a golden set, prepared once, or the whole pool read through slots."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nuggets_trainer.training.slots import Slots, SlotSampler, SlotView
from nuggets_trainer.wording import counted

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Trainer

    from nuggets_trainer.data.pool import Pool

logger = logging.getLogger(__name__)

ROW_INDEX = "_nuggets_index"  # column of prepared rows that holds their pool index
UNTRAINABLE = "no_completion_in_max_length"


class TrainingSet:
    """Training set of one trainer, made of golden sets.

    Args:
        trainer: trainer that is built; its `train_dataset` is replaced.
        pool: candidates.
        prepare: function that turns rows of the pool into rows that the trainer reads.

    Attributes:
        slots: slots that training reads; None if it reads one fixed golden set.
    """

    def __init__(self, trainer: Trainer, pool: Pool, prepare: Callable[[Dataset], Dataset]) -> None:
        self._trainer, self._pool, self._prepare = trainer, pool, prepare
        self._whole: tuple[Dataset, npt.NDArray[np.int64]] | None = None
        self.slots: Slots | None = None

    def use(self, indices: npt.NDArray[np.int64]) -> None:
        """Train on these rows, in pool order, prepared as the trainer prepares its training set."""
        rows, args = self._pool.dataset.select(np.sort(indices)), self._trainer.args
        prepared = self._prepare(rows)
        is_packed = getattr(args, "packing", False)
        if not is_packed and len(prepared) < len(rows):
            logger.warning(
                "TRL left out %d of the %d rows of the golden set: cut at `max_length=%s`, they have no completion "
                "token. Raise `max_length`.",
                len(rows) - len(prepared),
                len(rows),
                args.max_length,
            )
        self._trainer.train_dataset, self.slots = prepared, None

    def prepare_whole_pool(self) -> None:
        """Prepare all rows that may ever be in a slot, once. Rows that TRL leaves out are excluded from the pool."""
        if self._whole is not None:
            return
        prepared = self._prepare(self._usable_rows())
        # Without `with_format` a transform that the user has set would hide the column.
        row_indices = np.array(prepared.with_format(None)[ROW_INDEX][:], dtype=np.int64)
        place = np.full(len(self._pool), -1, dtype=np.int64)
        place[row_indices] = np.arange(len(prepared))
        self._pool.exclude({int(i): UNTRAINABLE for i in np.flatnonzero(place < 0)})
        self._whole = prepared.remove_columns(ROW_INDEX), place

    def use_slots(self, slots: Slots) -> None:
        """Train on the rows in these slots, also after refills. Call `prepare_whole_pool` before."""
        assert self._whole is not None, "the pool is not prepared"
        rows, place = self._whole
        self.slots = slots
        self._trainer.train_dataset = SlotView(rows, place, slots)

    def loader(self, make_loader: Callable[[], Any]) -> Any:
        """Make the trainer's loader over the training set. With slots, a slot becomes a row when it is drawn.

        Args:
            make_loader: the trainer's own `get_train_dataloader`.

        Raises:
            ValueError: if the loader is empty, because the rows fill no batch.
        """
        loader = make_loader()
        if len(loader) == 0:
            num_rows = counted(len(self._trainer.train_dataset), "row")
            raise ValueError(
                f"A golden set of {num_rows} fills no batch, and `dataloader_drop_last` drops incomplete batches. "
                "Keep more rows, lower the batch size, or set `dataloader_drop_last=False`."
            )
        if self.slots is not None:
            loader.set_sampler(SlotSampler(loader.get_sampler(), self.slots))
        return loader

    def full_steps(self) -> int:
        """Count the optimizer steps of `num_train_epochs` over the usable rows of the pool, as the Trainer does."""
        rows = self._prepare(self._usable_rows()) if self._whole is None else self._whole[0]
        args = self._trainer.args
        # With `split_batches` all processes share one batch; without it each process has its own.
        num_processes = 1 if self._trainer.accelerator.split_batches else args.world_size
        batches: float = len(rows) / (args.train_batch_size * num_processes)
        batches = int(batches) if args.dataloader_drop_last else math.ceil(batches)
        steps_per_epoch = max(1, math.ceil(batches / int(args.gradient_accumulation_steps)))
        return math.ceil(float(args.num_train_epochs) * steps_per_epoch)

    def steps_per_epoch(self, loader: Any) -> int:
        """Count the optimizer steps of one pass over the training set."""
        accumulation = int(self._trainer.args.gradient_accumulation_steps)
        return max(1, math.ceil(len(loader) / accumulation))

    def begin_epoch(self, step: int, loader: Any) -> None:
        """Tell the loader's sampler the epoch that begins after `step` optimizer steps."""
        if self.slots is not None:
            loader.get_sampler().epoch = step // self.steps_per_epoch(loader)

    def forget_before(self, step: int, loader: Any) -> None:
        """Forget golden sets that no job which goes on after `step` optimizer steps can read."""
        assert self.slots is not None, "the training set has no slots"
        self.slots.forget_epochs_before(step // self.steps_per_epoch(loader))

    def refill(self, indices: npt.NDArray[np.int64], step: int, loader: Any) -> None:
        """Put another golden set into the slots, from the first row on that no loader can have drawn yet.

        After the last step of an epoch this is the first row of the next epoch. Otherwise the loader looks one batch
        ahead, and each of its workers some more.

        Args:
            indices: pool indices of the new golden set.
            step: number of optimizer steps taken so far.
            loader: loader in use.
        """
        assert self.slots is not None, "the training set has no slots"
        args = self._trainer.args
        epoch, steps = divmod(step, self.steps_per_epoch(loader))
        if steps == 0:
            self.slots.refill(indices, epoch, position=0)
            return
        ahead = 2 + args.dataloader_num_workers * (args.dataloader_prefetch_factor or 2)
        batches = steps * args.gradient_accumulation_steps + ahead
        self.slots.refill(indices, epoch, position=batches * int(loader.total_batch_size))

    def _usable_rows(self) -> Dataset:
        _, dropped = self._pool.read_keys()
        usable = [i for i in range(len(self._pool)) if i not in dropped]
        return self._pool.dataset.select(usable).add_column(ROW_INDEX, usable)
