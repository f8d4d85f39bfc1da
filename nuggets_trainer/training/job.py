"""The main job: score a pool with the base model, keep its golden set, tune on it with TRL SFT and PEFT.

`nuggets train` and recipes/train.py run it. It may be killed at any moment: the same command goes on. Scores are in
`<output_dir>/nuggets`, and training goes on from the last complete checkpoint, on the golden set saved with it.
"""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config, get_quantization_config

from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.config.places import score_dir_of_job
from nuggets_trainer.data.columns import map_each
from nuggets_trainer.data.loading import check_paths, load_rows
from nuggets_trainer.demo import resolve_demo
from nuggets_trainer.engine.loading import hub_options, read_model_config
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.training.checkpoints import (
    SELECTION_FILE,
    check_trainer_state,
    checkpoint_asked_for,
    holds_model_alone,
    last_complete_checkpoint,
)
from nuggets_trainer.training.job_arguments import (
    RecipeArguments,
    check_best_metric,
    check_report_to,
    errors_name_the_lora_targets,
    model_init_kwargs,
)
from nuggets_trainer.training.trainer import SelectedSFTTrainer
from nuggets_trainer.wording import counted

EVAL_LOSS = re.compile(r"eval_(?:(.+)_)?loss")  # of the only set, or of one of several
FINISHED_FILE = "finished_training.json"  # state of the Trainer at the end, in the output directory of a finished job


def check_job_paths(script: RecipeArguments, args: SFTConfig, model: ModelConfig, nuggets: NuggetsConfig) -> None:
    """Refuse local paths of a program that trains which do not exist or must not be written, as `check_paths` does."""
    rows = {"dataset_name": script.dataset_name}
    for name, place in (script.eval_sets or {}).items():
        rows[f"eval_dataset_name {name}".rstrip()] = place.path
    models = {"model_name_or_path": model.model_name_or_path}
    check_paths(nuggets, rows, models, {"output_dir": args.output_dir})


def load_pool_rows(script: RecipeArguments) -> Any:
    """Load the rows that are the pool, or a stream of them."""
    return load_rows(
        _dataset_name(script),
        script.dataset_config,
        script.dataset_train_split,
        script.dataset_streaming,
        option="--dataset_name",
    )


def load_eval_rows(script: RecipeArguments, args: SFTConfig) -> Any:
    """Load the evaluation rows, by name if the sets have names; None if no evaluation is asked for."""
    sets = script.eval_sets
    if sets is not None:
        loaded = {}
        for name, place in sets.items():
            loaded[name] = load_rows(place.path, place.name, place.split, option="--eval_dataset_name")
        return loaded.get("", loaded)
    if args.eval_strategy == "no":
        return None
    return load_rows(_dataset_name(script), script.dataset_config, script.dataset_test_split)


def _dataset_name(script: RecipeArguments) -> str:
    if script.dataset_name is None:
        raise ValueError("`dataset_name` must name the rows to train on, got None. Give a file or a hub dataset.")
    return script.dataset_name


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
            f"same, add `--resume_from_checkpoint {checkpoint}`."
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
    """Where a job is that has taken all its steps.

    Attributes:
        place: its last checkpoint, or its output directory if that checkpoint is gone.
        model: directory of its model: the best one with `load_best_model_at_end`, else the last one.
    """

    place: str
    model: str


def find_finished(checkpoint: str | None, args: SFTConfig) -> Finished | None:
    """Find what a job has trained that has taken all its steps; None if steps are left.

    `Trainer.train` would take one more step if the last step was not the last one of its epoch. The last checkpoint
    may be gone: `save_total_limit=1` with `load_best_model_at_end` keeps the best one alone, and `save_strategy=best`
    may never write it. The output directory then tells that the job is finished, and has its model. A checkpoint that
    the user names is gone on from all the same.

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


def save_finished(trainer: SFTTrainer, finished: Finished) -> None:
    """Load the model of a finished job, and save it, unless it is in the output directory already."""
    trainer._load_from_checkpoint(finished.model)
    if finished.model != trainer.args.output_dir:
        trainer.save_model(trainer.args.output_dir)


def train_and_save(trainer: SFTTrainer, checkpoint: str | None) -> None:
    """Train from a checkpoint, or from the first step on; save the model, and mark the job finished.

    Args:
        trainer: trainer of the job.
        checkpoint: checkpoint to go on from; None starts at the first step.

    Raises:
        SystemExit: with code 143, if training stopped early because SIGTERM came (`enable_jit_checkpoint`).
    """
    args, say = trainer.args, trainer.accelerator.print
    mark = Path(args.output_dir) / FINISHED_FILE
    Ranks().on_main(lambda: mark.unlink(missing_ok=True))
    trainer.train(resume_from_checkpoint=checkpoint)
    if getattr(args, "enable_jit_checkpoint", False) and trainer.state.global_step < trainer.state.max_steps:
        say("SIGTERM: a checkpoint is written. The same command goes on from it.")
        raise SystemExit(128 + signal.SIGTERM)
    say(describe_training(trainer.state, len(trainer.train_dataset)))
    trainer.save_model(args.output_dir)
    Ranks().on_main(lambda: trainer.state.save_to_json(str(mark)))


def describe_training(state: TrainerState, num_rows: int) -> str:
    """Say in one line what training did.

    Args:
        state: state of the trainer at the end.
        num_rows: number of rows that it trained on.
    """
    losses = [entry for entry in state.log_history if "loss" in entry]
    parts = [f"trained {counted(state.global_step, 'step')} ({state.epoch:.3g} epochs) on {counted(num_rows, 'row')}"]
    if losses:
        before, after = losses[0], losses[-1]
        first = f"{before['loss']:.4f} at step {before['step']}, " if len(losses) > 1 else ""
        parts.append(f"training loss {first}{after['loss']:.4f} at step {after['step']}")
    heldout = {}
    for entry in state.log_history:
        for key, value in entry.items():
            found = EVAL_LOSS.fullmatch(key)
            if found is not None:
                heldout[found[1] or ""] = value  # the last one stays
    for name, loss in heldout.items():
        of_set = f" of {name}" if name else ""
        parts.append(f"held-out loss{of_set} {loss:.4f}")
    return "; ".join(parts)


def run_job(
    script: RecipeArguments, args: SFTConfig, model: ModelConfig, nuggets: NuggetsConfig
) -> SelectedSFTTrainer:
    """Run the job.

    Args:
        script: rows to train and to evaluate on.
        args: training arguments.
        model: model and adapter.
        nuggets: config that says how to score and what to keep.

    Returns:
        Trainer, trained and saved.

    Raises:
        SystemExit: with code 143, after SIGTERM with `enable_jit_checkpoint`.
    """
    with trainer_arguments(script, args, model, nuggets) as arguments:
        trainer = SelectedSFTTrainer(**arguments, nuggets_config=nuggets)
    say = trainer.accelerator.print
    checkpoint = Ranks().on_main(lambda: find_checkpoint(args))
    finished = Ranks().on_main(lambda: find_finished(checkpoint, args))
    if finished is not None:
        trainer.select(finished.place)
        save_finished(trainer, finished)
        score_dir = nuggets.score_dir or score_dir_of_job(args.output_dir)
        say(
            f"Nothing is left to train: {finished.place} has all steps. For another run choose another `output_dir`; "
            f"with `--score_dir {score_dir}` it uses the scores again."
        )
    else:
        if checkpoint is not None:
            say(f"Resuming from {checkpoint}, on the golden set saved in it.")
        train_and_save(trainer, checkpoint)
    say(f"Model, golden set and scores saved to {args.output_dir}.")
    if args.push_to_hub:
        is_local = Path(resolve_demo(_dataset_name(script))).expanduser().exists()
        trainer.push_to_hub(dataset_name=None if is_local else script.dataset_name)
    return trainer


@contextlib.contextmanager
def trainer_arguments(
    script: RecipeArguments, args: SFTConfig, model: ModelConfig, nuggets: NuggetsConfig
) -> Iterator[dict[str, Any]]:
    """Check that model and rows are there, load the rows, and yield the arguments of the trainer.

    A trainer that is built inside tells of LoRA targets that the model does not have.

    Args:
        script: rows to train and to evaluate on.
        args: training arguments; they get the arguments of `from_pretrained`.
        model: model and adapter.
        nuggets: config with the other paths.
    """
    check_job_paths(script, args, model, nuggets)
    args.model_init_kwargs = model_init_kwargs(args, model)
    if not torch.accelerator.is_available():
        args.dataloader_pin_memory = False  # torch warns of a default that does nothing here
    check_report_to(args.report_to)
    model_config = read_model_config(model.model_name_or_path, **hub_options(args))
    arguments = {
        "model": resolve_demo(model.model_name_or_path),
        "args": args,
        "train_dataset": load_pool_rows(script),
        "eval_dataset": map_each(load_eval_rows(script, args), nuggets.column_mapping, "eval_dataset"),
        "peft_config": get_peft_config(model),
    }
    check_best_metric(args, arguments["eval_dataset"])
    quantization_config = get_quantization_config(model)
    if quantization_config is not None:  # older versions of TRL do not have the argument
        arguments["quantization_config"] = quantization_config
    with errors_name_the_lora_targets(model_config):
        yield arguments
