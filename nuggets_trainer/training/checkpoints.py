"""The file beside each checkpoint that holds the golden set the checkpoint was trained on."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from nuggets_trainer.config.removed import REMOVED
from nuggets_trainer.golden.scores import VALUES
from nuggets_trainer.golden.selection import GoldenSet
from nuggets_trainer.store.files import write_atomically
from nuggets_trainer.training.settings import changed_settings, describe_changes, read_training_options
from nuggets_trainer.wording import counted

if TYPE_CHECKING:
    from nuggets_trainer.data.pool import Pool

logger = logging.getLogger(__name__)

SELECTION_FILE = "nuggets_selection.json"
BESIDE = ("training", "verdict", "rows")  # in that file, and no part of the golden set
# What the command line and YAML give for a checkpoint that is none: PyYAML's booleans, as texts.
ANSWERS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False, "none": False}


@dataclass
class Reselection:
    """State of a job that chooses its golden set again during training; with it a resumed job goes on.

    Attributes:
        anchor_indices: pool indices of the anchors that were chosen from the pool; None if the user gave anchors.
        first: pool indices of the first golden set.
        refills: contents of the slots over time, as `Slots.state` returns them: dicts with `epoch`, `position` (number
            of rows of this epoch that were drawn before) and `rows` (pool indices, one per slot).
        history: one summary per golden set, the first one included.
    """

    anchor_indices: list[int] | None
    first: list[int]
    refills: list[dict[str, Any]]
    history: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def start(cls, golden_set: GoldenSet, anchor_indices: list[int] | None) -> Reselection:
        """Build the state of a job whose slots hold this golden set, in pool order, from the first row on."""
        rows = np.sort(golden_set.indices).tolist()
        return cls(
            anchor_indices=anchor_indices,
            first=golden_set.indices.tolist(),
            refills=[{"epoch": 0, "position": 0, "rows": rows}],
            history=[{"step": 0.0, **golden_set.summary()}],
        )

    def record(self, step: int, before: npt.NDArray[np.int64], golden_set: GoldenSet) -> dict[str, float]:
        """Add a golden set to the history; return its summary.

        Args:
            step: number of optimizer steps taken so far.
            before: pool indices of the golden set that it replaces.
            golden_set: new golden set.

        Returns:
            Numbers by name. `kept` is the number of rows that were in the golden set before, and `kept_of_first` the
            number of rows that were in the first one.
        """
        summary = {
            "kept": float(np.isin(before, golden_set.indices).sum()),
            "kept_of_first": float(np.isin(self.first, golden_set.indices).sum()),
            **golden_set.summary(),
        }
        self.history.append({"step": float(step), **summary})
        return summary


def save_selection(
    path: Path,
    golden_set: GoldenSet,
    settings: dict[str, str],
    reselection: Reselection | None = None,
    beside: dict[str, Any] | None = None,
) -> None:
    """Write a golden set as JSON.

    Args:
        path: file to write.
        golden_set: golden set in force.
        settings: settings that the golden set depends on; a resumed job compares its own with them.
        reselection: state of choosing again; None if the golden set stays the same during training.
        beside: what else is kept: `training` (options of training; a resumed job warns where its own differ),
            `verdict` (of the report, for the model card of a resumed job), and `rows` (where pool and anchors are).
    """
    fields: dict[str, Any] = {"settings": settings, "training": {}, "verdict": {}, "rows": {}, **(beside or {})}
    for name, value in vars(golden_set).items():
        fields[name] = value.tolist() if isinstance(value, np.ndarray) else value
    if reselection is not None:
        fields["reselection"] = dataclasses.asdict(reselection)
    write_atomically(path, json.dumps(fields, indent=1).encode())


def load_selection(
    path: Path, settings: dict[str, str], pool: Pool | None = None
) -> tuple[GoldenSet, Reselection | None]:
    """Read what `save_selection` wrote.

    Args:
        path: file in the directory of a checkpoint.
        settings: settings of this job.
        pool: candidates, for a checkpoint of an earlier version, whose hash of the pool was another one.

    Raises:
        FileNotFoundError: if no golden set was saved with the checkpoint.
        ValueError: if the golden set was chosen under other settings; the error names those that differ.
    """
    check_complete(path.parent)
    fields = json.loads(path.read_text(encoding="utf-8"))
    saved = fields.pop("settings")
    for name in BESIDE:
        fields.pop(name, None)
    for name in REMOVED:  # a checkpoint of an earlier version may name options that are gone; it can still be used
        saved.pop(name, None)
    if "pool_rows" not in saved and pool is not None:
        saved = _in_todays_terms(path.parent, saved, fields["num_rows"], pool)
    _check_settings(path.parent, saved=saved, given=settings)
    reselection = fields.pop("reselection", None)
    fields["rule"] = tuple(fields["rule"])
    fields["indices"] = np.array(fields["indices"], dtype=np.int64)
    unknown = [math.nan] * len(fields["indices"])  # of a checkpoint that an earlier version wrote
    for value, error in VALUES:
        for name in (value, error):
            fields[name] = np.array(fields.get(name, unknown), dtype=np.float64)
    if fields.get("signal") is not None:
        fields["signal"] = np.array(fields["signal"], dtype=np.float64)
    golden_set = GoldenSet(**fields)
    return golden_set, None if reselection is None else Reselection(**reselection)


def check_complete(checkpoint: Path, last_file: str = SELECTION_FILE) -> None:
    """Refuse a checkpoint that a job cannot resume from.

    Args:
        checkpoint: directory of the checkpoint.
        last_file: name of the file that is written last; of a job with selection that of the golden set.

    Raises:
        FileNotFoundError: if the directory or the file is not there.
    """
    if not checkpoint.is_dir():
        raise FileNotFoundError(
            f"There is no checkpoint {checkpoint}. Name a directory that exists, or start without "
            "`resume_from_checkpoint`."
        )
    if last_file == TRAINER_STATE_NAME:
        check_trainer_state(checkpoint)
    elif not (checkpoint / last_file).is_file():
        raise FileNotFoundError(
            f"The checkpoint {checkpoint} has no {SELECTION_FILE}. Either it was trained without selection, or the "
            "job was killed while it saved the checkpoint. Resume from an earlier checkpoint, or start again without "
            "`resume_from_checkpoint`."
        )


def check_trainer_state(checkpoint: Path) -> None:
    """Refuse to train on from a directory without the Trainer's state: that of a job has a golden set too.

    Raises:
        FileNotFoundError: if the state is not there; the error names the newest checkpoint in the directory.
    """
    if not (checkpoint / TRAINER_STATE_NAME).is_file():
        newest = last_complete_checkpoint(checkpoint)
        advice = f"Name the newest one in it, {newest}" if newest else "Name a checkpoint"
        raise FileNotFoundError(
            f"{checkpoint} is not a checkpoint: it has no {TRAINER_STATE_NAME}. {advice}, or start again without "
            "`resume_from_checkpoint`."
        )


def holds_model_alone(checkpoint: Path) -> bool:
    """Check whether a checkpoint has no state of the optimizer (`save_only_model`)."""
    return not any("optimizer" in path.name or path.name.startswith("global_step") for path in checkpoint.iterdir())


def warn_of_other_training(checkpoint: Path, given: dict[str, Any]) -> None:
    """Warn if a checkpoint was trained with other options of training than those of this job.

    Args:
        checkpoint: directory of the checkpoint.
        given: options of this job, from `training_options`.
    """
    saved = json.loads((checkpoint / SELECTION_FILE).read_text(encoding="utf-8")).get("training")
    if saved is None:  # an earlier version wrote it
        saved = read_training_options(checkpoint)
    changes = describe_changes(saved, given)
    if not changes:
        return
    effect = "They count from here on"
    if not holds_model_alone(checkpoint):
        effect = (
            "The Trainer takes the state of the optimizer and of the schedule from the checkpoint, so a new learning "
            "rate or weight decay has no effect; other options count from here on"
        )
    logger.warning(
        "The checkpoint %s was trained with other options: %s. %s. To train with the new options from the first step, "
        "choose another `output_dir`; with the `score_dir` of this job the scores are used again.",
        checkpoint,
        changes,
        effect,
    )


def checkpoint_asked_for(
    asked: str | bool | None, output_dir: str | Path, last_file: str = SELECTION_FILE
) -> str | None:
    """Find the checkpoint that `resume_from_checkpoint` asks for; None if it asks for none.

    Args:
        asked: directory, or True for the newest checkpoint. The command line and YAML give `true`, `no` etc. as texts.
        output_dir: directory of the checkpoints.
        last_file: name of the file that is written last, as in `check_complete`.

    Raises:
        ValueError: if the newest one is asked for, but there is none.
        FileNotFoundError: if a directory is not a complete checkpoint.
    """
    if isinstance(asked, str) and not Path(asked).exists():
        asked = ANSWERS.get(asked.lower(), asked)
    if not asked:
        return None
    if asked is True:
        return require_complete_checkpoint(output_dir, last_file)
    check_complete(Path(asked), last_file)
    return asked


def _in_todays_terms(checkpoint: Path, saved: dict[str, str], num_rows: int, pool: Pool) -> dict[str, str]:
    """Complete the settings of an earlier version, whose hash did not see where unreadable rows stand.

    Equal numbers of rows prove that no unreadable row was deleted or added. They do not prove that none was moved.
    """
    pool_sha256 = saved.get("pool_sha256")
    if num_rows == len(pool) and pool_sha256 == pool.hash_without_places:
        pool_sha256 = pool.content_hash
        if pool.unreadable:
            logger.warning(
                "The checkpoint %s is from an earlier version, which did not save where the %s stand that cannot be "
                "used. Nothing was deleted or added; if such a row was moved, put it back, or start again.",
                checkpoint,
                counted(len(pool.unreadable), "row"),
            )
    return {**saved, "pool_rows": str(num_rows), "pool_sha256": str(pool_sha256)}


def _check_settings(checkpoint: Path, saved: Mapping[str, str], given: Mapping[str, str]) -> None:
    changes = changed_settings(saved, given)
    if changes:
        raise ValueError(
            f"The golden set of the checkpoint {checkpoint} was chosen under other settings: {', '.join(changes)}. "
            "Resume with the settings that the job was started with. Or start again in another `output_dir`; the "
            "scores are used again if you give the `score_dir` of the first job."
        )


def last_complete_checkpoint(output_dir: str | Path, last_file: str = SELECTION_FILE) -> str | None:
    """Find the newest checkpoint that has its last file, which marks it complete; None if there is none.

    Args:
        output_dir: directory of the checkpoints.
        last_file: name of the file that is written last, as in `check_complete`.
    """
    steps = {}
    for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*/{last_file}"):
        step = path.parent.name.rsplit("-", 1)[1]
        if step.isdigit():
            steps[int(step)] = path.parent
    return str(steps[max(steps)]) if steps else None


def require_complete_checkpoint(output_dir: str | Path, last_file: str = SELECTION_FILE) -> str:
    """Find the newest checkpoint that has its last file, as `last_complete_checkpoint` does.

    Args:
        output_dir: directory of the checkpoints.
        last_file: name of the file that is written last.

    Raises:
        ValueError: if there is no such checkpoint.
    """
    checkpoint = last_complete_checkpoint(output_dir, last_file)
    if checkpoint is None:
        raise ValueError(
            f"`resume_from_checkpoint=True`, but {output_dir} has no complete checkpoint: none of its checkpoints has "
            f"the file {last_file}. Start without `resume_from_checkpoint`: stored scores are used again."
        )
    return checkpoint


def sigterm_checkpoint(output_dir: str | Path, global_step: int) -> Path | None:
    """Find the checkpoint that the Trainer wrote when SIGTERM arrived (`enable_jit_checkpoint`); None without one.

    The Trainer writes it before a step that it still finishes, so the number may be one below `global_step`.
    """
    for step in (global_step, global_step - 1):
        path = Path(output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        if path.is_dir():
            return path
    return None
