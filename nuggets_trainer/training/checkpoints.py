"""The checkpoints of a job: which one it goes on from, and whether any step is left."""

from __future__ import annotations

import json
import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from nuggets_trainer.store.selection_file import SELECTION_FILE
from nuggets_trainer.training.settings import describe_changes, read_training_options

if TYPE_CHECKING:
    from trl import SFTConfig

logger = logging.getLogger(__name__)

FINISHED_FILE = "finished_training.json"  # state of the Trainer at the end, in the output directory of a finished job
# What the command line and YAML give for a checkpoint that is none: PyYAML's booleans, as texts.
ANSWERS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False, "none": False}


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


def is_finished(checkpoint: str, args: SFTConfig, state_file: str = TRAINER_STATE_NAME) -> bool:
    """Check whether a checkpoint has all the steps that these arguments ask for.

    Args:
        checkpoint: directory of the checkpoint, or of a job.
        args: training arguments.
        state_file: name of the file with the Trainer's state; in the directory of a job it is `FINISHED_FILE`.
    """
    state = TrainerState.load_from_json(str(Path(checkpoint) / state_file))
    if args.max_steps > 0:
        return bool(state.global_step >= args.max_steps)
    return bool(state.global_step >= state.max_steps and state.num_train_epochs >= args.num_train_epochs)


def find_checkpoint(args: SFTConfig, last_file: str = SELECTION_FILE) -> str | None:
    """Find the checkpoint that the job goes on from: the one asked for, or else the newest complete one.

    Args:
        args: training arguments.
        last_file: name of the file that marks a checkpoint complete; without selection it is the Trainer's own.

    Raises:
        FileNotFoundError, ValueError: if the one asked for is not there; or if the job would go on from a checkpoint
            that `save_only_model` wrote, though nobody named it.
    """
    asked = args.resume_from_checkpoint
    if asked not in (None, ""):
        found = checkpoint_asked_for(asked, args.output_dir, last_file)
        if found is not None:
            check_trainer_state(Path(found))
        return found
    checkpoint = last_complete_checkpoint(args.output_dir, last_file)
    if checkpoint is not None and holds_model_alone(Path(checkpoint)) and not is_finished(checkpoint, args):
        raise ValueError(
            f"The checkpoint {checkpoint} holds the model alone (`save_only_model`): training cannot go on from it, "
            "because the optimizer and the learning rate schedule would start anew. To train again from the first "
            "step (stored scores are used again), add `--resume_from_checkpoint false`. To go on from it all the "
            f"same, add `--resume_from_checkpoint {shlex.quote(checkpoint)}`."
        )
    return checkpoint


def best_checkpoint(checkpoint: str) -> str:
    """Find the checkpoint with the best model of a finished job, as `load_best_model_at_end` chose it.

    Args:
        checkpoint: last checkpoint of the job.

    Raises:
        FileNotFoundError: if the best one is gone.
    """
    best = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME)).best_model_checkpoint
    if best is None:
        return checkpoint
    moved = Path(checkpoint).with_name(Path(best).name)  # the directory of the job may have another name now
    for place in (moved, Path(best)):
        if place.is_dir():
            return str(place)
    raise FileNotFoundError(
        f"The job is finished, and its best model was {best} (`load_best_model_at_end`), which is gone. The model in "
        "the output directory is left as it is. To save the last model there, add `--load_best_model_at_end false`."
    )


class Finished(NamedTuple):
    """Directories of a job that has taken all its steps.

    Attributes:
        place: its last checkpoint, or its output directory if that checkpoint is gone.
        model: directory of its model: the best one with `load_best_model_at_end`, else the last one.
    """

    place: str
    model: str


def find_finished(checkpoint: str | None, args: SFTConfig) -> Finished | None:
    """Find the model of a job that has taken all its steps; None if steps are left.

    `Trainer.train` would take one more step if the last step was not the last one of its epoch. The last checkpoint
    may be gone: `save_total_limit=1` with `load_best_model_at_end` keeps the best one alone, and `save_strategy=best`
    may never write it. The output directory then shows that the job is finished, and has its model. If the user
    names a checkpoint, training continues from it all the same.

    Args:
        checkpoint: checkpoint that the job would go on from; None if it starts at the first step.
        args: training arguments.

    Raises:
        FileNotFoundError: if the best model is gone.
    """
    if checkpoint is None:
        return None
    if is_finished(checkpoint, args):
        return Finished(checkpoint, best_checkpoint(checkpoint) if args.load_best_model_at_end else checkpoint)
    if checkpoint == args.resume_from_checkpoint:
        return None
    if (Path(args.output_dir) / FINISHED_FILE).is_file() and is_finished(args.output_dir, args, FINISHED_FILE):
        return Finished(args.output_dir, args.output_dir)
    return None
