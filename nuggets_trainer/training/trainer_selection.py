"""The golden set of one trainer: chosen or resumed, made the training set, saved, and chosen again."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nuggets_trainer.engine.adapters import holds_adapters, inner_model
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.scoring.progress import messages_above_bars, tell
from nuggets_trainer.store.selection_file import (
    SELECTION_FILE,
    Reselection,
    is_checkpoint,
    load_selection,
    save_row_places,
    save_selection,
)
from nuggets_trainer.training.checkpoints import (
    check_trainer_state,
    checkpoint_asked_for,
    holds_model_alone,
    warn_of_other_training,
)
from nuggets_trainer.training.preserved import preserved_rng
from nuggets_trainer.training.selector import Selector
from nuggets_trainer.training.settings import check_adapters, training_options
from nuggets_trainer.training.slots import Slots
from nuggets_trainer.training.trackers import log_selection
from nuggets_trainer.training.trainer_checks import check_plan
from nuggets_trainer.training.training_set import TrainingSet

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Trainer

    from nuggets_trainer.config.nuggets_config import NuggetsConfig
    from nuggets_trainer.data.pool import Pool
    from nuggets_trainer.golden.selection import GoldenSet
    from nuggets_trainer.scoring.session import AnchorPools
    from nuggets_trainer.store.results import PoolScores

logger = logging.getLogger(__name__)


class TrainerSelection:
    """Golden set of one trainer, from the first choice to the end of training.

    Args:
        trainer: trainer that is built and not trained yet.
        config: user's config.
        pool: candidates.
        anchors: anchors by set; None if they are chosen from the pool.
        prepare: function that turns rows of the pool into rows that the trainer reads.

    Attributes:
        trainer: trainer whose training set this is.
        golden_set: `GoldenSet` in force; None before it is chosen.
        scores: `PoolScores` that the golden set was chosen by; None before that, and after resuming.
        reselection: state of choosing again; None without `reselect`.
        training_set: training set of the trainer.
        pool: candidates.

    Raises:
        ValueError: if trainer, rows and config do not fit together.
    """

    def __init__(
        self,
        trainer: Trainer,
        config: NuggetsConfig,
        pool: Pool,
        anchors: AnchorPools | None,
        prepare: Callable[[Dataset], Dataset],
    ) -> None:
        self.trainer: Any = trainer  # transformers has no types
        self.golden_set: GoldenSet | None = None
        self.scores: PoolScores | None = None
        self.reselection: Reselection | None = None
        self.training_set = TrainingSet(trainer, pool, prepare)
        self.pool = pool
        self._config, self._saved_verdict = config, dict[str, Any]()
        self._selector = Selector(trainer, config, pool, anchors)
        self._selector.check()
        self._training = self._training_options()
        check_plan(config, trainer.args, self._selector.waits_for_sharding)

    def prepare_training(self, resume_from_checkpoint: str | bool | None) -> str | None:
        """Choose the golden set, or read it from a checkpoint that training goes on from.

        Args:
            resume_from_checkpoint: directory of a checkpoint; True for the newest one in `output_dir`.

        Returns:
            Checkpoint to resume from; None to start at step 0.

        Raises:
            ValueError: if the newest checkpoint is asked for, but there is none.
            FileNotFoundError: if there is no such checkpoint, or if it has no golden set.
        """
        checkpoint = self.choose_or_read(resume_from_checkpoint)
        if checkpoint is None:
            return None
        check_trainer_state(Path(checkpoint))
        if self.trainer.is_world_process_zero() and holds_model_alone(Path(checkpoint)):
            logger.warning(
                "The checkpoint %s holds the model alone (`save_only_model`): the optimizer and the learning rate "
                "schedule start anew, so training is not that of a job that was not interrupted.",
                checkpoint,
            )
        return checkpoint

    def choose_or_read(self, resume_from_checkpoint: str | bool | None) -> str | None:
        """Choose the golden set, or read it from a checkpoint, with `prepare_training`'s argument and result."""
        output_dir = self.trainer.args.output_dir
        checkpoint = Ranks().on_main(lambda: checkpoint_asked_for(resume_from_checkpoint, output_dir))
        if checkpoint is not None:
            self._resume(Path(checkpoint) / SELECTION_FILE)
        elif self.golden_set is None and self._selector.waits_for_sharding:
            self._plan()
        elif self.golden_set is None:
            self.select()
        elif self.reselection is not None:  # the trainer trains once more: it starts with the last golden set
            self._use(self.golden_set, Reselection.start(self.golden_set, self.reselection.anchor_indices))
        return checkpoint

    def select(self) -> GoldenSet:
        """Choose the golden set and make it the training set. The first call scores; later calls return the same.

        Raises:
            RuntimeError: if the model can score only after training has begun.
            ValueError: if nothing can be scored.
        """
        if self.golden_set is not None:
            return self.golden_set
        if self._selector.waits_for_sharding:
            raise RuntimeError(
                "Under FSDP and DeepSpeed the golden set is chosen when training begins, after the model is wrapped. "
                "Call `trainer.train()`."
            )
        with preserved_rng():
            if self._config.reselect != "no":
                self.training_set.prepare_whole_pool()
            self.scores, golden_set = self._selector.choose()
            self._use(golden_set, self._start_reselection(golden_set))
        return golden_set

    def golden_loader(self, make_loader: Callable[[], Any]) -> Any:
        """Make the trainer's loader over the golden set.

        Args:
            make_loader: the trainer's own `get_train_dataloader`.
        """
        if self.golden_set is None and self._selector.waits_for_sharding:
            self._plan()
        else:
            self.select()
        return self.training_set.loader(make_loader)

    def choose_planned(self) -> None:
        """Choose the golden set for which steps are planned already, if `prepare_training` had to put it off."""
        slots = self.training_set.slots
        if self.golden_set is not None or slots is None:
            return
        with preserved_rng():
            self.scores, self.golden_set = self._selector.choose_planned(len(slots))
        slots.fill(self.golden_set.indices)
        self.reselection = self._start_reselection(self.golden_set)
        self.save(self.trainer.args.output_dir)

    @property
    def verdict(self) -> dict[str, Any]:
        """The verdict on the golden set, as in `PoolScores.verdict`; empty if there is none."""
        return self._saved_verdict if self.scores is None else self.scores.verdict

    def is_due(self, step: int, loader: Any) -> bool:
        """Check whether the golden set is to be chosen again after this optimizer step."""
        return self.reselection is not None and step % self.interval(loader) == 0

    def interval(self, loader: Any) -> int:
        """Return the number of optimizer steps between two choices of the golden set."""
        return self._config.reselect_steps or self.training_set.steps_per_epoch(loader)

    def choose_again(self, step: int, loader: Any) -> None:
        """Choose the golden set again with the model as it is now, put it into the slots, log and save it.

        Args:
            step: number of optimizer steps taken so far.
            loader: loader in use.
        """
        slots, reselection = self.training_set.slots, self.reselection
        assert slots is not None and reselection is not None, "without `reselect` a golden set is chosen once"
        with preserved_rng(), messages_above_bars():
            self.scores, self.golden_set = self._selector.choose_again(len(slots), reselection.anchor_indices, step)
        summary = reselection.record(step, slots.latest, self.golden_set)
        if self.trainer.is_world_process_zero():
            kept, of_first = summary["kept"], summary["kept_of_first"]
            text = "chosen again after step %d: %.0f of %d rows stay, %.0f are of the first golden set"
            tell(logger, text, step, kept, len(slots), of_first)
        self.training_set.refill(self.golden_set.indices, step, loader)
        log_selection(self.trainer, self.pool, summary, self.golden_set, self.scores)
        self.save(self.trainer.args.output_dir)

    def log(self) -> None:
        """Log the golden set through the Trainer's own `report_to`, once training has begun."""
        assert self.golden_set is not None, "the golden set is not chosen yet"
        log_selection(self.trainer, self.pool, self.golden_set.summary(), self.golden_set, self.scores)

    def save(self, directory: str | Path) -> None:
        """Write the golden set, once it is chosen, to a directory. All ranks may call; the main one writes."""
        if self.golden_set is None or not self.trainer.is_world_process_zero():
            return
        if self.reselection is not None and self.training_set.slots is not None:
            self.reselection.refills = self.training_set.slots.state()
        path, rows = Path(directory) / SELECTION_FILE, self._selector.describe_rows()
        beside = {"training": self._training, "verdict": self.verdict, "rows": rows}
        save_selection(path, self.golden_set, self._selector.settings, self.reselection, beside)
        if not is_checkpoint(path.parent):  # `hub_strategy` may upload all files of those
            save_row_places(path.parent, rows)

    def _training_options(self) -> dict[str, Any]:
        options = training_options(self.trainer.args, self.trainer.accelerator.unwrap_model(self.trainer.model))
        if self._config.match_full_steps:  # the number of steps is computed
            del options["max_steps"]
        return options

    def _resume(self, path: Path) -> None:
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        check_adapters(path.parent, inner_model(model) is not model or holds_adapters(model))
        golden_set, reselection = load_selection(path, self._selector.settings, self.pool)
        if self.trainer.is_world_process_zero():
            tell(logger, "%s; read from %s", golden_set.describe(), path.parent)
            warn_of_other_training(path.parent, self._training)
        self.scores = None
        self._saved_verdict = json.loads(path.read_text(encoding="utf-8")).get("verdict", {})
        with preserved_rng():
            if reselection is not None:
                self.training_set.prepare_whole_pool()
            self._use(golden_set, reselection)

    def _use(self, golden_set: GoldenSet, reselection: Reselection | None) -> None:
        self.golden_set, self.reselection = golden_set, reselection
        if reselection is None:
            self.training_set.use(golden_set.indices)
        else:
            self.training_set.use_slots(Slots.from_state(reselection.refills))
        self._plan_steps()
        self.save(self.trainer.args.output_dir)

    def _plan(self) -> None:
        """Set training up for a golden set that is chosen after the Trainer has wrapped the model."""
        if self.training_set.slots is not None:
            return
        with preserved_rng():
            self.training_set.prepare_whole_pool()
            size = self._selector.planned_size()
            self.training_set.use_slots(Slots(np.arange(size, dtype=np.int64)))
            self._plan_steps()

    def _plan_steps(self) -> None:
        if self._config.match_full_steps:
            self.trainer.args = copy.copy(self.trainer.args)  # the user may pass the same object to another trainer
            self.trainer.args.max_steps = self.training_set.full_steps()

    def _start_reselection(self, golden_set: GoldenSet) -> Reselection | None:
        if self._config.reselect == "no" or self.scores is None:
            return None
        # Anchors that were chosen from the pool stay the same when the golden set is chosen again.
        anchor_indices = [i for i in self.scores.anchors.pool_index if i is not None]
        return Reselection.start(golden_set, anchor_indices or None)
