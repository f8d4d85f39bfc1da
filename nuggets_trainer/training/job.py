"""The main job: score a pool with the base model, keep its golden set, tune on it with TRL SFT and PEFT.

`nuggets train` and recipes/train.py run it. It may be killed at any moment: the same command goes on. Scores are in
`<output_dir>/nuggets`, and training goes on from the last complete checkpoint, on the golden set saved with it.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config, get_quantization_config

from nuggets_trainer.config.nuggets_config import NuggetsConfig
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
    check_report_to,
    errors_name_the_lora_targets,
    model_init_kwargs,
)
from nuggets_trainer.training.trainer import SelectedSFTTrainer


def load_eval_rows(script: RecipeArguments, args: SFTConfig) -> Any:
    """Load the evaluation rows; None if no evaluation is asked for."""
    if script.eval_dataset_name is not None:
        return load_rows(script.eval_dataset_name, split=script.dataset_test_split, option="--eval_dataset_name")
    if args.eval_strategy == "no":
        return None
    return load_rows(script.dataset_name, script.dataset_config, script.dataset_test_split)


def is_finished(checkpoint: str, args: SFTConfig) -> bool:
    """Check whether a checkpoint has all the steps that these arguments ask for."""
    state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
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


def load_finished(trainer: SFTTrainer, checkpoint: str) -> None:
    """Load what a finished job has trained: its best model with `load_best_model_at_end`, else the last one.

    `Trainer.train` would take one more step if the last step was not the last one of its epoch.

    Args:
        trainer: trainer of the job.
        checkpoint: last checkpoint of the job.

    Raises:
        FileNotFoundError: if the best model is gone.
    """
    trainer._load_from_checkpoint(best_checkpoint(checkpoint) if trainer.args.load_best_model_at_end else checkpoint)


def leave_after_sigterm(trainer: SFTTrainer) -> None:
    """End the process if training stopped early because SIGTERM came (`enable_jit_checkpoint`).

    Raises:
        SystemExit: with code 143.
    """
    if getattr(trainer.args, "enable_jit_checkpoint", False) and trainer.state.global_step < trainer.state.max_steps:
        trainer.accelerator.print("SIGTERM: a checkpoint is written. The same command goes on from it.")
        raise SystemExit(128 + signal.SIGTERM)


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
    if checkpoint is not None and is_finished(checkpoint, args):
        trainer.select(checkpoint)
        load_finished(trainer, checkpoint)
        score_dir = nuggets.score_dir or Path(args.output_dir) / "nuggets"
        say(
            f"Nothing is left to train: {checkpoint} has all steps. For another run choose another `output_dir`; with "
            f"`--score_dir {score_dir}` it uses the scores again."
        )
    else:
        if checkpoint is not None:
            say(f"Resuming from {checkpoint}, on the golden set saved in it.")
        trainer.train(resume_from_checkpoint=checkpoint)
        leave_after_sigterm(trainer)
    trainer.save_model(args.output_dir)
    say(f"Model, golden set and scores saved to {args.output_dir}.")
    if args.push_to_hub:
        trainer.push_to_hub(dataset_name=script.dataset_name)
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
    rows = {"dataset_name": script.dataset_name, "eval_dataset_name": script.eval_dataset_name}
    models = {"model_name_or_path": model.model_name_or_path}
    check_paths(nuggets, rows, models, {"output_dir": args.output_dir})
    args.model_init_kwargs = model_init_kwargs(args, model)
    check_report_to(args.report_to)
    model_config = read_model_config(model.model_name_or_path, **hub_options(args))
    arguments = {
        "model": resolve_demo(model.model_name_or_path),
        "args": args,
        "train_dataset": load_rows(
            script.dataset_name,
            script.dataset_config,
            script.dataset_train_split,
            script.dataset_streaming,
            option="--dataset_name",
        ),
        "eval_dataset": load_eval_rows(script, args),
        "peft_config": get_peft_config(model),
    }
    quantization_config = get_quantization_config(model)
    if quantization_config is not None:  # older versions of TRL do not have the argument
        arguments["quantization_config"] = quantization_config
    with errors_name_the_lora_targets(model_config):
        yield arguments
