"""The main job: score a pool with the base model, keep its golden set, tune on it with TRL SFT and PEFT.

`nuggets train` and recipes/train.py run it. It may be killed at any moment: the same command goes on. Scores are in
`<output_dir>/nuggets`, and training goes on from the last complete checkpoint, on the golden set saved with it.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState
from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config, get_quantization_config

from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.config.places import score_dir_of_job
from nuggets_trainer.data.columns import map_each
from nuggets_trainer.data.loading import check_paths, load_rows
from nuggets_trainer.demo import resolve_demo
from nuggets_trainer.engine.loading import hub_options, read_model_config
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.training.checkpoints import FINISHED_FILE, Finished, find_checkpoint, find_finished
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
    epochs = f"{state.epoch:.3g}"
    epochs += " epoch" if epochs == "1" else " epochs"
    parts = [f"trained {counted(state.global_step, 'step')} ({epochs}) on {counted(num_rows, 'row')}"]
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
            f"with `--score_dir {shlex.quote(str(score_dir))}` it uses the scores again."
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
