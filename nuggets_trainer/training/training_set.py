"""The rows that a trainer reads, made of a golden set: prepared once, or refilled in slots. Knows no scores."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nuggets_trainer.training.slots import Slots, SlotSampler, SlotView

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    from nuggets_trainer.config.nuggets_config import NuggetsConfig
    from nuggets_trainer.data.pool import Pool

logger = logging.getLogger(__name__)

ROW_INDEX = "_nuggets_index"
FEW_STEPS = 50
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
        self._trainer.train_dataset, self.slots = prepared, None

    def prepare_whole_pool(self) -> None:
        """Prepare every row that may ever be in a slot, once; rows that TRL leaves out are candidates no more."""
        if self._whole is not None:
            return
        prepared = self._prepare(self._usable_rows())
        place = np.full(len(self._pool), -1, dtype=np.int64)
        # `with_format`: a transform of the user's would hide the column.
        place[np.array(prepared.with_format(None)[ROW_INDEX][:], dtype=np.int64)] = np.arange(len(prepared))
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
        if len(loader) == 0:
            raise ValueError(
                f"A golden set of {len(self._trainer.train_dataset)} rows fills no batch, and `dataloader_drop_last` "
                "drops what does not. Keep more rows, or lower the batch size."
            )
        if self.slots is not None:
            loader.set_sampler(SlotSampler(loader.get_sampler(), self.slots))
        return loader

    def full_steps(self) -> int:
        """Optimizer steps of `num_train_epochs` over the usable rows of the pool, as the Trainer counts them."""
        whole = self._prepare(self._usable_rows()) if self._whole is None else self._whole[0]
        args, shares = (
            self._trainer.args,
            1 if self._trainer.accelerator.split_batches else self._trainer.args.world_size,
        )
        batches: float = len(whole) / (args.train_batch_size * shares)
        batches = int(batches) if args.dataloader_drop_last else math.ceil(batches)
        steps = max(1, math.ceil(batches / int(args.gradient_accumulation_steps)))
        return math.ceil(float(args.num_train_epochs) * steps)

    def steps_per_epoch(self, loader: Any) -> int:
        """Optimizer steps of one pass over the training set."""
        accumulation = int(self._trainer.args.gradient_accumulation_steps)
        return max(1, math.ceil(len(loader) / accumulation))

    def begin_epoch(self, step: int, loader: Any) -> None:
        """Draw for the epoch in which that many optimizer steps are behind."""
        if self.slots is not None:
            loader.get_sampler().epoch = step // self.steps_per_epoch(loader)

    def forget_before(self, step: int, loader: Any) -> None:
        """Drop what no job that goes on after this step can read."""
        assert self.slots is not None
        self.slots.forget_epochs_before(step // self.steps_per_epoch(loader))

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


def check_attachable(trainer: Trainer) -> None:
    """Refuse a trainer whose training set cannot be chosen from any more, or without a tokenizer.

    Raises:
        ValueError: with what to do.
    """
    if getattr(trainer, "nuggets_config", None) is not None:
        raise ValueError("A SelectedSFTTrainer with a `nuggets_config` selects by itself. Drop the callback.")
    if getattr(trainer.args, "packing", False):
        raise ValueError(
            "`train_dataset` is packed already, and a packed row mixes several examples. Set `packing=False`, or use "
            "`SelectedSFTTrainer`, which selects before rows are packed."
        )
    if trainer.processing_class is None:
        raise ValueError("Scoring needs the tokenizer: build the trainer with `processing_class=tokenizer`.")


def check_plan(config: NuggetsConfig, args: TrainingArguments, steps_first: bool) -> None:
    """Refuse arguments that do not go with how the golden set is chosen.

    Args:
        config: the choices of the user.
        args: of the trainer.
        steps_first: whether training is planned before the golden set is chosen.

    Raises:
        ValueError: as `check_refillable`, or where two options say how long to train.
    """
    if config.reselect != "no":
        check_refillable(args, "`reselect`")
    elif steps_first:
        check_refillable(args, "Selection under FSDP and DeepSpeed (steps are planned first)")
    if config.match_full_steps and args.max_steps > 0:
        raise ValueError(f"`match_full_steps` and `max_steps={args.max_steps}` both say how long to train. Keep one.")


def check_refillable(args: TrainingArguments, why: str) -> None:
    """Refuse arguments under which rows cannot be put in place once the steps are planned.

    Args:
        args: of the trainer.
        why: begins the error: what needs it.

    Raises:
        ValueError: with packing, with a batch size or an order that is not known beforehand.
    """
    if getattr(args, "packing", False):
        raise ValueError(
            f"{why} exchanges single rows, but `packing=True` mixes several in one. Set `packing=False` "
            "(`padding_free=True` wastes no padding either)."
        )
    if args.auto_find_batch_size:
        raise ValueError(
            f"{why} plans with one batch size, which `auto_find_batch_size` may change midway. Set "
            "`per_device_train_batch_size`."
        )
    if args.accelerator_config.dispatch_batches:
        raise ValueError(
            f"{why} needs each process to draw its own batches, but `dispatch_batches` has the first one draw for "
            "all. Leave it out of `accelerator_config`."
        )
    if args.ignore_data_skip:
        raise ValueError(
            f"{why} needs to know where in an epoch a resumed job is, which `ignore_data_skip` gives up. Leave it out."
        )
    strategy = getattr(args, "train_sampling_strategy", "random")
    if strategy not in ("random", "sequential"):
        raise ValueError(
            f"{why} needs an order that does not depend on the rows, but `train_sampling_strategy={strategy!r}` "
            "sorts them by length. Use 'random' or 'sequential'."
        )


def warn_of_few_steps(num_rows: int, max_steps: int, args: TrainingArguments) -> None:
    """Say so below 50 optimizer steps."""
    if max_steps >= FEW_STEPS:
        return
    logger.warning(
        "A golden set of %d rows gives %d optimizer steps (%g epochs, effective batch of %d rows): below %d the model "
        "hardly moves. Set `match_full_steps`, raise `num_train_epochs` or set `max_steps`, lower the batch size, or "
        "keep more rows.",
        num_rows,
        max_steps,
        args.num_train_epochs,
        args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
        FEW_STEPS,
    )


def warn_of_no_reselection(interval: int, max_steps: int) -> None:
    """Say so where training ends before the first time."""
    if interval >= max_steps:
        logger.warning(
            "`reselect` never chooses again: the first time would be after step %d of %d. Train longer, or set "
            "`reselect='steps'` with a smaller `reselect_steps`.",
            interval,
            max_steps,
        )
