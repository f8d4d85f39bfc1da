"""`NuggetsDataCallback`: makes a trainer train on its golden set, at the events that the Trainer announces."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.engine.adapters import inner_model
from nuggets_trainer.pipeline.rows import read_anchors
from nuggets_trainer.report.card_fields import TAGS
from nuggets_trainer.report.cards import complete_card, may_be_replaced, selection_section, wrap_create_model_card
from nuggets_trainer.scoring.progress import messages_above_bars
from nuggets_trainer.training.attached_pool import attached_pool
from nuggets_trainer.training.checkpoints import sigterm_checkpoint
from nuggets_trainer.training.trainer_checks import check_attachable, warn_of_few_steps, warn_of_no_reselection
from nuggets_trainer.training.trainer_selection import TrainerSelection

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from nuggets_trainer.data.pool import Pool
    from nuggets_trainer.golden.selection import GoldenSet
    from nuggets_trainer.pipeline.rows import AnchorDataset
    from nuggets_trainer.scoring.session import AnchorPools
    from nuggets_trainer.store.results import PoolScores


logger = logging.getLogger(__name__)


class NuggetsDataCallback(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Callback that makes a plain `SFTTrainer` or `Trainer` train on the golden set of its `train_dataset`.

    The golden set becomes the training set before the first step. With `reselect` it is chosen again between two
    optimizer steps.

    Transformers does not tell a callback which trainer it belongs to, so call `attach`. `SelectedSFTTrainer` makes a
    callback of its own. What a resumed job needs is in a file beside each checkpoint, because the Trainer replaces
    callbacks that restore themselves from a checkpoint.

    Args:
        nuggets_config: config that says how to score and what to keep. Default: `NuggetsConfig()`, which keeps the
            top 10%. (`SelectedSFTTrainer` without a config does not select.)
        anchor_dataset: anchors in any format that the pool may have, or a dict of several anchor sets by name.
            Default: `nuggets_config.anchors`, or else anchors that are chosen from the pool.

    Example:
        ```python
        trainer = SFTTrainer(model="Qwen/Qwen3-0.6B", train_dataset=pool)
        NuggetsDataCallback(NuggetsConfig(top_k=500)).attach(trainer)
        trainer.train()
        ```
    """

    def __init__(
        self, nuggets_config: NuggetsConfig | None = None, anchor_dataset: AnchorDataset | None = None
    ) -> None:
        self._config = nuggets_config or NuggetsConfig()
        self._anchor_dataset = anchor_dataset
        self._selection: TrainerSelection | None = None

    @property
    def golden_set(self) -> GoldenSet | None:
        """The `GoldenSet` in force; None before it is chosen.

        Its indices are those of the trainer's `train_dataset` at the time when the callback was attached.
        """
        return None if self._selection is None else self._selection.golden_set

    @property
    def scores(self) -> PoolScores | None:
        """The `PoolScores` that the golden set was chosen by; None before that, and after resuming."""
        return None if self._selection is None else self._selection.scores

    @property
    def selection(self) -> TrainerSelection:
        """The golden set of the trainer that this callback is attached to.

        Raises:
            RuntimeError: if the callback is attached to no trainer.
        """
        if self._selection is None:
            raise RuntimeError(
                "This NuggetsDataCallback is attached to no trainer. Call `callback.attach(trainer)` before "
                "`trainer.train()`, or use `SelectedSFTTrainer(..., nuggets_config=...)`, which makes its own."
            )
        return self._selection

    def attach(self, trainer: Trainer) -> None:
        """Select before this trainer trains. It may run in one process or under DDP.

        Args:
            trainer: trainer that is built and not trained yet. The rows of its `train_dataset` are the pool.

        Raises:
            TypeError, ValueError: if selection from this `train_dataset` is not possible; the error says what to do.
        """
        if self._selection is not None:
            raise ValueError("This NuggetsDataCallback is attached already. Make one callback for each trainer.")
        check_attachable(trainer)
        if self._config.columns is not None:
            raise ValueError(
                "`columns` is for SelectedSFTTrainer: the rows of this trainer are prepared already. Rename the "
                "columns before the trainer is made, or leave `columns` out."
            )
        for other in trainer.callback_handler.callbacks:
            if isinstance(other, NuggetsDataCallback) and other._is_attached_to(trainer):
                raise ValueError("Another NuggetsDataCallback selects for this trainer already. Attach only one.")
        pool = attached_pool(trainer)
        anchors = read_anchors(self._anchor_dataset, self._config, pool, "anchor_dataset")
        self.take_over(trainer, pool, anchors, prepare=lambda rows: rows)  # the trainer has prepared them already
        train, get_train_dataloader, save_model = trainer.train, trainer.get_train_dataloader, trainer.save_model

        @functools.wraps(train)
        def train_on_golden_set(resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
            return train(self.selection.prepare_training(resume_from_checkpoint), *args, **kwargs)

        @functools.wraps(save_model)
        def save_model_with_card(output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
            with self.card_beside_model(output_dir):
                save_model(output_dir, *args, **kwargs)

        trainer.train, trainer.save_model = train_on_golden_set, save_model_with_card
        if hasattr(trainer, "_tag_names"):
            trainer._tag_names = [*trainer._tag_names, *TAGS]
        trainer.create_model_card = wrap_create_model_card(trainer.create_model_card, self.complete_model_card)
        trainer.get_train_dataloader = lambda: self.selection.golden_loader(get_train_dataloader)

    def take_over(
        self, trainer: Trainer, pool: Pool, anchors: AnchorPools | None, prepare: Callable[[Dataset], Dataset]
    ) -> None:
        """Take over the training set of a trainer. `attach` and `SelectedSFTTrainer` call this.

        Args:
            trainer: trainer that is built and not trained yet.
            pool: candidates.
            anchors: anchors by set; None if they are chosen from the pool.
            prepare: function that turns rows of the pool into rows that the trainer reads.
        """
        self._selection = TrainerSelection(trainer, self._config, pool, anchors, prepare)
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)

    def select(self) -> GoldenSet:
        """Choose the golden set and make it the training set. The first call scores; later calls return the same.

        Raises:
            RuntimeError: if the callback is attached to no trainer, or if the model can score only after training has
                begun.
            ValueError: if nothing can be scored.
        """
        return self.selection.select()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log the golden set through the Trainer's own `report_to`. Warn if training is short.

        Raises:
            RuntimeError: if this callback is attached to no trainer, or to another one.
        """
        selection = self.selection
        is_own_trainer = selection.trainer.state is state
        if is_own_trainer:
            selection.choose_planned()
        if not is_own_trainer or selection.golden_set is None:
            raise RuntimeError(
                "This NuggetsDataCallback has no golden set for the trainer that now trains. Either it is attached to "
                "another trainer, or training was not started by `trainer.train()`. Make one callback for each "
                "trainer, and call `callback.attach(trainer)` before `trainer.train()`."
            )
        selection.log()
        if state.is_world_process_zero:
            with messages_above_bars():
                warn_of_few_steps(len(selection.golden_set), state.max_steps, args)
                if selection.reselection is not None:
                    warn_of_no_reselection(selection.interval(kwargs["train_dataloader"]), state.max_steps)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the training set which epoch the loader draws."""
        self.selection.training_set.begin_epoch(state.global_step, kwargs["train_dataloader"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Choose the golden set again when it is time, before the checkpoint of this step is written."""
        selection, step, loader = self.selection, state.global_step, kwargs["train_dataloader"]
        if selection.reselection is None or step >= state.max_steps or control.should_training_stop:
            return
        selection.training_set.forget_before(step, loader)
        if selection.is_due(step, loader):
            # Any log resets the flag, but the loss of this step is still to be logged.
            should_log = control.should_log
            selection.choose_again(step, loader)
            control.should_log = should_log

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save the golden set with the checkpoint that was just written. Its file marks the checkpoint complete."""
        self.selection.save(Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save the golden set with the checkpoint that was written because of SIGTERM, if there is one.

        With `enable_jit_checkpoint` the Trainer writes such a checkpoint, but it calls no `on_save` for it.
        """
        if getattr(args, "enable_jit_checkpoint", False) and state.global_step < state.max_steps:
            checkpoint = sigterm_checkpoint(args.output_dir, state.global_step)
            if checkpoint is not None:
                self.selection.save(checkpoint)

    def complete_model_card(self, directory: str | Path | None = None) -> None:
        """Say in a model card how the training data was chosen, and complete the fields at its head.

        Args:
            directory: directory of the card; None for the trainer's `output_dir`. Without a card nothing is done.
        """
        selection = self.selection
        args = selection.trainer.args
        path = Path(directory or args.output_dir) / "README.md"
        if selection.golden_set is None or not selection.trainer.is_world_process_zero() or not path.is_file():
            return
        num_reselections = None if selection.reselection is None else len(selection.reselection.history) - 1
        sources = list(selection.pool.hub_sources)
        section = selection_section(
            *(selection.golden_set, self._config, selection.scores, num_reselections),
            sources=sources,
            verdict=selection.verdict,
        )
        model = inner_model(selection.trainer.accelerator.unwrap_model(selection.trainer.model))
        saved_as = args.hub_model_id or Path(args.output_dir).name
        try:
            complete_card(path, section, str(model.config._name_or_path or ""), sources, saved_as)
        except (OSError, ValueError) as error:  # a text that is not UTF-8, a full disk: the model matters more
            logger.warning("The model card %s could not be completed: %s", path, error)

    @contextlib.contextmanager
    def card_beside_model(self, directory: str | Path | None) -> Iterator[None]:
        """Write the model card before the model is saved inside, and complete it behind: PEFT changes the card.

        TRL writes a card for checkpoints alone. Without one, PEFT writes an empty form. A card that somebody has
        written himself is completed only.

        Args:
            directory: directory that the model is saved to; None for the trainer's `output_dir`.
        """
        trainer = self.selection.trainer
        args = trainer.args
        directory = Path(directory or args.output_dir)
        is_chosen = self.selection.golden_set is not None and trainer.is_world_process_zero()
        # Transformers' own card asks the hub for the base model, so that of a plain Trainer is left to the user.
        if is_chosen and hasattr(trainer, "_tag_names") and may_be_replaced(directory / "README.md"):
            trainer.args = copy.copy(args)
            trainer.args.output_dir = str(directory)
            try:
                trainer.create_model_card(model_name=(args.hub_model_id or Path(args.output_dir).name).split("/")[-1])
            except (OSError, ValueError, ImportError) as error:  # the model matters more
                logger.warning("The model card in %s could not be written: %s", directory, error)
            finally:
                trainer.args = args
        yield
        self.complete_model_card(directory)

    def _is_attached_to(self, trainer: Trainer) -> bool:
        return self._selection is not None and self._selection.trainer is trainer
