"""`NuggetsDataCallback`: drives selection for a trainer, reports and saves it. Knows no formulas.

Before training it makes the golden set the training set; with `reselect` again between two optimizer steps.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.report.cards import add_section, selection_section, wrap_create_model_card
from nuggets_trainer.training.attached_pool import attached_pool
from nuggets_trainer.training.checkpoints import (
    SELECTION_FILE,
    Reselection,
    last_complete_checkpoint,
    load_selection,
    save_selection,
)
from nuggets_trainer.training.preserved import preserved_rng
from nuggets_trainer.training.selector import Selector, anchor_pools
from nuggets_trainer.training.slots import Slots
from nuggets_trainer.training.trackers import log_selection
from nuggets_trainer.training.training_set import (
    TrainingSet,
    check_attachable,
    check_plan,
    warn_of_few_steps,
    warn_of_no_reselection,
)

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from nuggets_trainer.data.pool import Pool
    from nuggets_trainer.golden.selection import GoldenSet
    from nuggets_trainer.scoring.anchors import AnchorPools
    from nuggets_trainer.store.results import PoolScores
    from nuggets_trainer.training.selector import AnchorDataset


class NuggetsDataCallback(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Train a plain `SFTTrainer` or `Trainer` on the golden set of its `train_dataset`.

    A callback is never told its trainer, so it has to be attached. `SelectedSFTTrainer` makes one of its own. State
    lives in a file, because the Trainer replaces callbacks that restore themselves from a checkpoint.

    Args:
        nuggets_config: how to score and what to keep.
        anchor_dataset: the anchors, in any format that the pool may have, several sets as a dict by name; default:
            `nuggets_config.anchors`, or else chosen from the pool.

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

    def __init__(self, nuggets_config: NuggetsConfig | None = None, anchor_dataset: AnchorDataset | None = None):
        self._config = nuggets_config or NuggetsConfig()
        self._anchor_dataset = anchor_dataset
        self._trainer: Trainer | None = None
        self._reselection: Reselection | None = None
        self.golden_set: GoldenSet | None = None
        self.scores: PoolScores | None = None

    def attach(self, trainer: Trainer) -> None:
        """Select before this trainer trains; in one process and under DDP.

        Args:
            trainer: built, not trained yet. What it has prepared of its `train_dataset` is the pool.

        Raises:
            TypeError, ValueError: if there is nothing that can be selected from; the error says what to do.
        """
        if self._trainer is not None:
            raise ValueError("This NuggetsDataCallback is attached already. Make one callback for each trainer.")
        check_attachable(trainer)
        others = (c for c in trainer.callback_handler.callbacks if isinstance(c, NuggetsDataCallback))
        if any(other._trainer is trainer for other in others):
            raise ValueError("Another NuggetsDataCallback selects for this trainer already. Keep one.")
        pool = attached_pool(trainer)
        self.drive(trainer, pool, anchor_pools(self._config, self._anchor_dataset, pool), prepare=lambda rows: rows)
        train, get_train_dataloader = trainer.train, trainer.get_train_dataloader

        @functools.wraps(train)
        def train_on_golden_set(resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
            return train(self.begin(resume_from_checkpoint), *args, **kwargs)

        trainer.train = train_on_golden_set
        trainer.create_model_card = wrap_create_model_card(trainer.create_model_card, self.complete_model_card)
        trainer.get_train_dataloader = lambda: self.golden_loader(get_train_dataloader)

    def drive(
        self, trainer: Trainer, pool: Pool, anchors: AnchorPools | None, prepare: Callable[[Dataset], Dataset]
    ) -> None:
        """Take over the training set of a trainer; `attach` and `SelectedSFTTrainer` call it.

        Args:
            trainer: built, and not trained yet.
            pool: the candidates.
            anchors: the anchors by set; None chooses them from the pool.
            prepare: turns rows of the pool into what the trainer reads.
        """
        self._trainer, self._pool = trainer, pool
        self._selector = Selector(trainer, self._config, pool, anchors)
        self._training_set = TrainingSet(trainer, pool, prepare)
        self._selector.check()
        check_plan(self._config, trainer.args, self._selector.waits_for_sharding)
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)

    def begin(self, resume_from_checkpoint: str | bool | None) -> str | None:
        """Select, or take the golden set of a checkpoint; return the checkpoint to resume from.

        Raises:
            ValueError: if the last checkpoint is asked for and there is none.
        """
        if resume_from_checkpoint is True:
            output_dir = self._driven().args.output_dir
            resume_from_checkpoint = Ranks().on_main(lambda: last_complete_checkpoint(output_dir))
            if resume_from_checkpoint is None:
                raise ValueError(
                    f"`resume_from_checkpoint=True`, but {output_dir} has no complete checkpoint (one with a "
                    f"{SELECTION_FILE}). Start without it: stored scores are used again."
                )
        if resume_from_checkpoint:
            self._resume(Path(resume_from_checkpoint) / SELECTION_FILE)
        elif self.golden_set is None and self._selector.waits_for_sharding:
            self._plan()
        elif self.golden_set is None:
            self.select()
        elif self._reselection is not None:  # trained before: again, from the golden set of its end
            self._use(self.golden_set, Reselection.start(self.golden_set, self._reselection.anchor_indices))
        return resume_from_checkpoint or None

    def select(self) -> GoldenSet:
        """Choose the golden set, once, and make it the training set.

        Raises:
            RuntimeError: if the model can score only once training begins.
            ValueError: if nothing can be scored.
        """
        if self._driven() and self.golden_set is not None:
            return self.golden_set
        if self._selector.waits_for_sharding:
            raise RuntimeError(
                "Under FSDP and DeepSpeed the golden set is chosen when training begins, once the model is wrapped: "
                "call `trainer.train()`."
            )
        with preserved_rng():
            if self._config.reselect != "no":
                self._training_set.prepare_whole_pool()
            self.scores, golden_set = self._selector.choose()
            self._use(golden_set, self._begun(golden_set))
        return golden_set

    def _resume(self, path: Path) -> None:
        golden_set, reselection = load_selection(path, self._selector.settings)
        self.scores = None
        with preserved_rng():
            if reselection is not None:
                self._training_set.prepare_whole_pool()
            self._use(golden_set, reselection)

    def _use(self, golden_set: GoldenSet, reselection: Reselection | None) -> None:
        self.golden_set, self._reselection = golden_set, reselection
        if reselection is None:
            self._training_set.use(golden_set.indices)
        else:
            self._training_set.use_slots(Slots.from_state(reselection.refills))
        self._plan_steps()
        self._save(Path(self._driven().args.output_dir))

    def _plan_steps(self) -> None:
        trainer = self._driven()
        if self._config.match_full_steps:
            trainer.args = copy.copy(trainer.args)  # the user's own may serve another trainer
            trainer.args.max_steps = self._training_set.full_steps()

    def _plan(self) -> None:
        """Set training up for a golden set that is chosen once the Trainer has wrapped the model."""
        if self._training_set.slots is None:
            with preserved_rng():
                self._training_set.prepare_whole_pool()
                self._training_set.use_slots(Slots(np.arange(self._selector.planned_size(), dtype=np.int64)))
                self._plan_steps()

    def _choose_late(self, slots: Slots) -> GoldenSet:
        with preserved_rng():
            self.scores, self.golden_set = self._selector.choose_planned(len(slots))
        slots.fill(self.golden_set.indices)
        self._reselection = self._begun(self.golden_set)
        self._save(Path(self._driven().args.output_dir))
        return self.golden_set

    def golden_loader(self, make_loader: Callable[[], Any]) -> Any:
        """Make the trainer's loader over the golden set."""
        if self.golden_set is None and self._selector.waits_for_sharding:
            self._plan()
        else:
            self.select()
        return self._training_set.loader(make_loader)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log the summary through the Trainer's own `report_to`; warn below 50 optimizer steps.

        Raises:
            RuntimeError: if this callback is attached to no trainer, or to another one.
        """
        mine, slots, golden_set = self._driven().state is state, self._training_set.slots, self.golden_set
        if mine and golden_set is None and slots is not None:
            golden_set = self._choose_late(slots)
        if not mine or golden_set is None:
            raise RuntimeError(
                "This NuggetsDataCallback is attached to another trainer than the one that trains with it, or its "
                "trainer was started in another way than by `trainer.train()`. Make one callback for each trainer, "
                "and call `callback.attach(trainer)` before `trainer.train()`."
            )
        log_selection(self._driven(), self._pool, golden_set.summary(), golden_set, self.scores)
        if state.is_world_process_zero:
            warn_of_few_steps(len(golden_set), state.max_steps, args)
            if self._reselection is not None:
                warn_of_no_reselection(self._interval(kwargs["train_dataloader"]), state.max_steps)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the training set which epoch its loader draws for."""
        self._training_set.begin_epoch(state.global_step, kwargs["train_dataloader"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Choose the golden set again, when it is time; before this step's checkpoint is written."""
        step, loader = state.global_step, kwargs["train_dataloader"]
        if self._reselection is None or step >= state.max_steps or control.should_training_stop:
            return
        self._training_set.forget_before(step, loader)
        if step % self._interval(loader) == 0:
            should_log = control.should_log
            self._choose_again(self._reselection, step, loader)
            control.should_log = should_log  # any log takes it back, and the loss of this step waits for its own

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Put the golden set beside the checkpoint that was just written; its presence marks it complete."""
        self._save(Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Complete the checkpoint that SIGTERM had written (`enable_jit_checkpoint`): no `on_save` tells of it."""
        if getattr(args, "enable_jit_checkpoint", False) and state.global_step < state.max_steps:
            steps = (state.global_step, state.global_step - 1)  # it is written before a step that still ends
            paths = [Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{step}" for step in steps]
            for checkpoint in [path for path in paths if path.is_dir()][:1]:
                self._save(checkpoint)

    def complete_model_card(self) -> None:
        """Say in the model card that the trainer has just written how its training data was chosen."""
        if self.golden_set is None or not self._driven().is_world_process_zero():
            return
        num_reselections = None if self._reselection is None else len(self._reselection.history) - 1
        section = selection_section(self.golden_set, self._config, self.scores, num_reselections)
        add_section(Path(self._driven().args.output_dir) / "README.md", section)

    def _interval(self, loader: Any) -> int:
        """Optimizer steps between two choices."""
        return self._config.reselect_steps or self._training_set.steps_per_epoch(loader)

    def _begun(self, golden_set: GoldenSet) -> Reselection | None:
        if self._config.reselect == "no" or self.scores is None:
            return None
        # The anchors that the first scoring chose; none if they were given.
        anchor_indices = [i for i in self.scores.anchors.pool_index if i is not None]
        return Reselection.start(golden_set, anchor_indices or None)

    def _choose_again(self, reselection: Reselection, step: int, loader: Any) -> None:
        slots = self._training_set.slots
        assert slots is not None
        with preserved_rng():
            self.scores, self.golden_set = self._selector.choose_again(len(slots), reselection.anchor_indices, step)
        indices = self.golden_set.indices
        summary = reselection.record(step, slots.latest, self.golden_set)
        self._training_set.refill(indices, step, loader)
        log_selection(self._driven(), self._pool, summary, self.golden_set, self.scores)
        self._save(Path(self._driven().args.output_dir))

    def _save(self, directory: Path) -> None:
        if self.golden_set is None or not self._driven().is_world_process_zero():
            return
        if self._reselection is not None and self._training_set.slots is not None:
            self._reselection.refills = self._training_set.slots.state()
        save_selection(directory / SELECTION_FILE, self.golden_set, self._selector.settings, self._reselection)

    def _driven(self) -> Any:
        if self._trainer is None:
            raise RuntimeError(
                "This NuggetsDataCallback is attached to no trainer. Call `callback.attach(trainer)` before "
                "`trainer.train()`, or use `SelectedSFTTrainer(..., nuggets_config=...)`, which makes its own."
            )
        return self._trainer
