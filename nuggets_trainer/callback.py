"""`NuggetsDataCallback`: reports a trainer's golden set and saves it with every checkpoint. Knows no formulas."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from nuggets_trainer.selection import GoldenSet
from nuggets_trainer.store import write_atomically

if TYPE_CHECKING:
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

SELECTION_FILE = "nuggets_selection.json"
FEW_STEPS = 50


class NuggetsDataCallback(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Log the golden set when training begins, warn when it gives few steps, save it with every checkpoint.

    A callback is never told its trainer: call `attach(trainer)`, and `use(golden_set, ...)` once it is known.
    `SelectedSFTTrainer` does both. Its state lives in a file, because the Trainer replaces callbacks that restore
    themselves from a checkpoint.
    """

    def __init__(self) -> None:
        self._trainer: Trainer | None = None
        self._golden_set: GoldenSet | None = None
        self._settings: dict[str, str] = {}
        self._scores_summary: dict[str, float] = {}

    def attach(self, trainer: Trainer) -> None:
        """Report to this trainer's logs."""
        self._trainer = trainer

    def use(
        self, golden_set: GoldenSet, settings: dict[str, str], scores_summary: dict[str, float] | None = None
    ) -> None:
        """Report this golden set, chosen under these settings, and what is known of the scores."""
        self._golden_set, self._settings = golden_set, settings
        self._scores_summary = scores_summary or {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log the summary through the Trainer's own `report_to`; warn below 50 optimizer steps."""
        if self._trainer is None or self._golden_set is None:
            raise RuntimeError(
                "NuggetsDataCallback has no golden set to report. Use `SelectedSFTTrainer(..., nuggets_config=...)`, "
                "which makes its own callback, instead of passing one in `callbacks`."
            )
        summary = {**self._golden_set.summary(), **self._scores_summary}
        self._trainer.log({f"nuggets/{name}": value for name, value in summary.items()})
        if state.max_steps < FEW_STEPS and state.is_world_process_zero:
            logger.warning(
                "A golden set of %d rows gives %d optimizer steps (%g epochs, effective batch of %d rows): below %d "
                "the model hardly moves. Raise `num_train_epochs` or set `max_steps`, lower the batch size, or keep "
                "more rows.",
                len(self._golden_set),
                state.max_steps,
                args.num_train_epochs,
                args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
                FEW_STEPS,
            )

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Put the golden set beside the checkpoint that was just written; its presence marks it complete."""
        if state.is_world_process_zero and self._golden_set is not None:
            checkpoint = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            save_selection(checkpoint / SELECTION_FILE, self._golden_set, self._settings)


def save_selection(path: Path, golden_set: GoldenSet, settings: dict[str, str]) -> None:
    """Write a golden set as JSON: the settings it was chosen under, and all fields of `GoldenSet`."""
    fields = {
        name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(golden_set).items()
    }
    write_atomically(path, json.dumps({"settings": settings, **fields}, indent=1).encode())


def load_selection(path: Path, settings: dict[str, str]) -> GoldenSet:
    """Read a golden set back.

    Raises:
        FileNotFoundError: if no golden set was saved with the checkpoint.
        ValueError: if it was chosen under other settings; the error names those that differ.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"The checkpoint {path.parent} has no {path.name}: it was not made with selection, or the job died while "
            "saving it. Resume from an earlier checkpoint, or start anew without `resume_from_checkpoint`."
        )
    fields = json.loads(path.read_text())
    saved = fields.pop("settings")
    names = sorted(name for name in saved.keys() | settings.keys() if saved.get(name) != settings.get(name))
    if names:
        changes = ", ".join(f"{name} was {saved.get(name)} and is now {settings.get(name)}" for name in names)
        raise ValueError(
            f"The checkpoint {path.parent} was trained on a golden set that was chosen otherwise: {changes}. Resume "
            "with the settings it was started with, or start anew in another `output_dir` (with this one's "
            "`score_dir`, its scores are reused)."
        )
    fields["indices"] = np.array(fields["indices"], dtype=np.int64)
    for name in ("golden_score", "standard_error", "mean_gain"):
        fields[name] = np.array(fields[name], dtype=np.float64)
    return GoldenSet(**{**fields, "rule": tuple(fields["rule"])})


def last_complete_checkpoint(output_dir: str | Path) -> str | None:
    """Path of the newest checkpoint whose golden set was saved, which is the last thing written; None without one."""
    found = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*/{SELECTION_FILE}")
    steps = {int(step): path.parent for path in found if (step := path.parent.name.rsplit("-", 1)[1]).isdigit()}
    return str(steps[max(steps)]) if steps else None
