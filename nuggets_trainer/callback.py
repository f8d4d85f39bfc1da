"""`NuggetsDataCallback`: drives selection for a trainer, reports and saves it. Knows no formulas.

Before training it has the pool scored and makes the golden set the training set; with `reselect` it does so again
between two optimizer steps.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from nuggets_trainer.checkpoints import (
    SELECTION_FILE,
    Reselection,
    last_complete_checkpoint,
    load_selection,
    save_selection,
)
from nuggets_trainer.config import NuggetsConfig
from nuggets_trainer.contexts import preserved_rng
from nuggets_trainer.pool import Pool
from nuggets_trainer.selector import Selector, anchor_pool
from nuggets_trainer.slots import Slots
from nuggets_trainer.training_set import TrainingSet, check_refillable

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from nuggets_trainer.results import PoolScores
    from nuggets_trainer.selection import GoldenSet

logger = logging.getLogger(__name__)

FEW_STEPS = 50


class NuggetsDataCallback(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Train a plain `SFTTrainer` or `Trainer` on the golden set of its `train_dataset`.

    A callback is never told its trainer, so it has to be attached. `SelectedSFTTrainer` makes one of its own, and also
    knows how to select before rows are packed. Its state lives in a file, because the Trainer replaces callbacks that
    restore themselves from a checkpoint.

    Args:
        nuggets_config: how to score and what to keep.
        anchor_dataset: the anchors, in any format that the pool may have; default: `nuggets_config.anchors`, or else
            chosen from the pool.

    Attributes:
        golden_set: the `GoldenSet` in force, once it is chosen; else None. Its indices are those of the trainer's
            `train_dataset` as it was when the callback was attached.
        scores: the `PoolScores` it was chosen by; None before, and after resuming from a checkpoint.

    Example:
        ```python
        trainer = SFTTrainer(model="Qwen/Qwen3-0.6B", train_dataset=pool)
        NuggetsDataCallback(NuggetsConfig(top_k=500)).attach(trainer)
        trainer.train()
        ```
    """

    def __init__(self, nuggets_config: NuggetsConfig | None = None, anchor_dataset: Dataset | None = None) -> None:
        self._config = nuggets_config or NuggetsConfig()
        self._anchor_dataset = anchor_dataset
        self._trainer: Trainer | None = None
        self._reselection: Reselection | None = None
        self.golden_set: GoldenSet | None = None
        self.scores: PoolScores | None = None

    def attach(self, trainer: Trainer) -> None:
        """Select before this trainer trains; in one process and under DDP.

        Args:
            trainer: built, and not trained yet. What it has prepared of its `train_dataset` is the pool.

        Raises:
            TypeError, ValueError: if there is nothing that can be selected from; the error says what to do.
        """
        _check_attachable(trainer)
        pool = Pool(trainer.train_dataset, "train_dataset")
        self.drive(trainer, pool, anchor_pool(self._config, self._anchor_dataset, pool), prepare=lambda rows: rows)
        train, get_train_dataloader = trainer.train, trainer.get_train_dataloader

        @functools.wraps(train)
        def train_on_golden_set(resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
            return train(self.begin(resume_from_checkpoint), *args, **kwargs)

        trainer.train = train_on_golden_set
        trainer.get_train_dataloader = lambda: self.golden_loader(get_train_dataloader)

    def drive(self, trainer: Trainer, pool: Pool, anchors: Pool | None, prepare: Callable[[Dataset], Dataset]) -> None:
        """Take over the training set of a trainer; `attach` and `SelectedSFTTrainer` call it.

        Args:
            trainer: built, and not trained yet.
            pool: the candidates.
            anchors: the anchors; None chooses them from the pool.
            prepare: turns rows of the pool into what the trainer reads.
        """
        self._trainer = trainer
        self._selector = Selector(trainer, self._config, pool, anchors)
        self._training_set = TrainingSet(trainer, pool, prepare)
        self._selector.check()
        if self._config.reselect != "no":
            check_refillable(trainer.args)
        if self._config.match_full_steps and trainer.args.max_steps > 0:
            raise ValueError(
                f"`match_full_steps` and `max_steps={trainer.args.max_steps}` both say how long to train. Keep one."
            )
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)

    def begin(self, resume_from_checkpoint: str | bool | None) -> str | None:
        """Select, or take the golden set of a checkpoint; return the checkpoint to resume from.

        Raises:
            ValueError: if the last checkpoint is asked for and there is none.
        """
        if resume_from_checkpoint is True:
            output_dir = self._driven().args.output_dir
            resume_from_checkpoint = last_complete_checkpoint(output_dir)
            if resume_from_checkpoint is None:
                raise ValueError(
                    f"`resume_from_checkpoint=True`, but {output_dir} has no complete checkpoint (one with a "
                    f"{SELECTION_FILE}). Start without it: stored scores are used again."
                )
        self.select(resume_from_checkpoint or None)
        return resume_from_checkpoint or None

    def select(self, checkpoint: str | None = None) -> GoldenSet:
        """Choose the golden set, once, and make it the training set.

        Args:
            checkpoint: take its golden set instead of scoring.

        Raises:
            FileNotFoundError: if no golden set was saved with the checkpoint.
            ValueError: if nothing can be scored, or the checkpoint's golden set was chosen under other settings.
        """
        trainer = self._driven()
        if self.golden_set is not None:
            return self.golden_set
        with preserved_rng():
            if self._config.reselect != "no":
                self._training_set.prepare_whole_pool()
            if checkpoint:
                path = Path(checkpoint) / SELECTION_FILE
                self.golden_set, self._reselection = load_selection(path, self._selector.settings)
            else:
                self.scores, self.golden_set = self._selector.choose()
                if self._config.reselect != "no":
                    self._reselection = self._first_selection(self.golden_set, self.scores)
            if self._reselection is None:
                self._training_set.use(self.golden_set.indices)
            else:
                self._training_set.use_slots(Slots.from_state(self._reselection.refills))
            if self._config.match_full_steps:
                trainer.args.max_steps = self._training_set.full_steps()
        self._save(Path(trainer.args.output_dir))
        return self.golden_set

    def golden_loader(self, make_loader: Callable[[], Any]) -> Any:
        """Make the trainer's loader over the golden set."""
        self.select()
        return self._training_set.loader(make_loader)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log the summary through the Trainer's own `report_to`; warn below 50 optimizer steps.

        Raises:
            RuntimeError: if this callback is attached to no trainer, or to another one.
        """
        if self._driven().state is not state or self.golden_set is None:
            raise RuntimeError(
                "This NuggetsDataCallback is attached to another trainer than the one that trains with it, or its "
                "trainer was started in another way than by `trainer.train()`. Make one callback for each trainer, "
                "and call `callback.attach(trainer)` before `trainer.train()`."
            )
        self._log({**self.golden_set.summary(), **({} if self.scores is None else self.scores.summary())})
        if state.max_steps < FEW_STEPS and state.is_world_process_zero:
            logger.warning(
                "A golden set of %d rows gives %d optimizer steps (%g epochs, effective batch of %d rows): below %d "
                "the model hardly moves. Set `match_full_steps`, raise `num_train_epochs` or set `max_steps`, lower "
                "the batch size, or keep more rows.",
                len(self.golden_set),
                state.max_steps,
                args.num_train_epochs,
                args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
                FEW_STEPS,
            )

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the training set which epoch its loader draws for."""
        self._training_set.begin_epoch(state.global_step, kwargs["train_dataloader"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Choose the golden set again, when it is time; before this step's checkpoint is written."""
        step, loader, every = state.global_step, kwargs["train_dataloader"], self._config.reselect_steps
        if self._reselection is None or step >= state.max_steps:
            return
        self._training_set.forget_before(step, loader)
        if step % (self._training_set.steps_per_epoch(loader) if every is None else every) == 0:
            should_log = control.should_log
            self._choose_again(self._reselection, step, loader)
            control.should_log = should_log  # any log takes it back, and the loss of this step waits for its own

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Put the golden set beside the checkpoint that was just written; its presence marks it complete."""
        self._save(Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")

    def _first_selection(self, golden_set: GoldenSet, scores: PoolScores) -> Reselection:
        chosen = [i for i in scores.anchors.pool_index if i is not None]
        return Reselection(
            anchor_indices=chosen or None,
            first=golden_set.indices.tolist(),
            refills=Slots(np.sort(golden_set.indices)).state(),
            history=[{"step": 0.0, **golden_set.summary()}],
        )

    def _choose_again(self, reselection: Reselection, step: int, loader: Any) -> None:
        slots = self._training_set.slots
        assert slots is not None
        with preserved_rng():
            self.scores, self.golden_set = self._selector.choose_again(len(slots), reselection.anchor_indices, step)
        indices = self.golden_set.indices
        summary = {
            "kept": float(np.isin(slots.latest, indices).sum()),
            "kept_of_first": float(np.isin(reselection.first, indices).sum()),
            **self.golden_set.summary(),
        }
        self._training_set.refill(indices, step, loader)
        reselection.history.append({"step": float(step), **summary})
        self._log({**summary, **self.scores.summary()})
        self._save(Path(self._driven().args.output_dir))

    def _log(self, summary: dict[str, float]) -> None:
        # Not `trainer.log`: SFTTrainer's would put the metrics it has gathered since its last log into this entry.
        Trainer.log(self._driven(), {f"nuggets/{name}": value for name, value in summary.items()})

    def _save(self, directory: Path) -> None:
        if not self._driven().is_world_process_zero():
            return
        if self._reselection is not None and self._training_set.slots is not None:
            self._reselection.refills = self._training_set.slots.state()
        if self.golden_set is not None:
            path = directory / SELECTION_FILE
            save_selection(path, self.golden_set, self._selector.settings, self._reselection)

    def _driven(self) -> Any:
        if self._trainer is None:
            raise RuntimeError(
                "This NuggetsDataCallback is attached to no trainer, and a callback is never told its trainer. Call "
                "`callback.attach(trainer)` before `trainer.train()`, or use `SelectedSFTTrainer(..., "
                "nuggets_config=...)`, which makes its own callback."
            )
        return self._trainer


def _check_attachable(trainer: Trainer) -> None:
    if getattr(trainer, "nuggets_config", None) is not None:
        raise ValueError("A SelectedSFTTrainer with a `nuggets_config` selects by itself. Drop the callback.")
    if getattr(trainer.args, "packing", False):
        raise ValueError(
            "`train_dataset` is packed already, and a packed row mixes several examples. Set `packing=False`, or use "
            "`SelectedSFTTrainer`, which selects before rows are packed."
        )
    if trainer.processing_class is None:
        raise ValueError("Scoring needs the tokenizer: build the trainer with `processing_class=tokenizer`.")
