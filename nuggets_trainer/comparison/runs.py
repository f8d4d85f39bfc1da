"""The runs of a comparison: tune on chosen rows with a seed, measure the loss of every held-out row, keep it on disk.

A finished run is one small JSON file. Its name is a hash of everything that decides the result, and the file spells
all of it out: rows, seed, training arguments, adapter, base model, held-out rows, versions. A changed setting gives
another file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import numpy.typing as npt
import peft
import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config

from nuggets_trainer.demo import resolve_demo
from nuggets_trainer.engine.adapters import base_weights, holds_adapters, inner_model
from nuggets_trainer.heldout.measures import Measures
from nuggets_trainer.heldout.tasks import HarnessTasks
from nuggets_trainer.prompts.generated import find_turn_end
from nuggets_trainer.prompts.segment import Segment, scored_at
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.store.files import make_directory, write_atomically
from nuggets_trainer.store.fingerprint import adapter_hash, config_hash, tokenizer_hash, weights_hash
from nuggets_trainer.training.job_arguments import load_options
from nuggets_trainer.training.preserved import hidden_bars
from nuggets_trainer.training.rows import rows_for_trl

POOL_INDEX = "_pool_index"
# Training arguments that cannot change a weight, by the beginnings of their names.
NOT_DECIDING = ("logging_", "save_", "eval_", "hub_", "push_", "report_", "disable_tqdm", "output_dir", "run_name")
# Columns of prepared rows that decide where the loss is: `labels`, or masks in older versions of TRL.
LOSS_COLUMNS = ("input_ids", "labels", "completion_mask", "assistant_masks")
QUIET = {
    "save_strategy": "no",
    "eval_strategy": "no",
    "eval_on_start": False,
    "logging_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "load_best_model_at_end": False,
    "push_to_hub": False,
    "enable_jit_checkpoint": False,  # a run that SIGTERM ends early is no finished one
}


@dataclasses.dataclass(frozen=True)
class TuningRun:
    """Result of one run.

    Attributes:
        losses: losses of the rows of the first held-out set, `(h,)`, nats per completion token.
        steps: number of optimizer steps.
        training_seconds: wall time of training.
        evaluation_seconds: wall time of measuring.
        generation: mean of the generation metric; None if nothing was generated.
        measures: values of everything else that the model is measured by, by name (see `heldout.measures`).
    """

    losses: list[float]
    steps: int
    training_seconds: float
    evaluation_seconds: float
    generation: float | None
    measures: dict[str, list[float]] = dataclasses.field(default_factory=dict)


class TuningRuns:
    """Tunes the same base model on different rows of one pool, with the training arguments of the main job.

    Args:
        args: training arguments; each run sets `max_steps` and `seed` itself.
        model: model arguments.
        template_name: template of rows with Alpaca columns, as `NuggetsConfig.template`.
        pool: all rows.
        candidates: pool indices of the rows that an arm can take.
        heldout: rows to measure on, by the name of their set; the first set is the one that verdicts are about.
        directory: directory of the finished runs.
        generation: metric, and number of rows of each set to complete; None if nothing is generated.
        tasks: tasks of lm-evaluation-harness to measure by; None if there are none.

    Raises:
        ValueError: if no row of a held-out set can be measured, or if the model would be sharded.
    """

    def __init__(
        self,
        args: SFTConfig,
        model: ModelConfig,
        template_name: str,
        pool: Dataset,
        candidates: list[int],
        heldout: Mapping[str, Dataset],
        directory: Path,
        generation: tuple[str, int] | None,
        tasks: HarnessTasks | None = None,
    ) -> None:
        self._args, self._model_config, self._directory, self._generation = args, model, directory, generation
        self._path = resolve_demo(model.model_name_or_path)
        self._load_options = load_options(args, model)
        shared = {name: self._load_options[name] for name in ("revision", "trust_remote_code")}
        self._tokenizer = AutoTokenizer.from_pretrained(self._path, **shared)
        self._ranks = Ranks()
        rows = pool.select(candidates).add_column(POOL_INDEX, candidates)
        with hidden_bars():
            train_rows = rows_for_trl(rows, template_name, args, self._tokenizer)
            heldout_rows = {}
            for name, own in heldout.items():
                heldout_rows[name] = rows_for_trl(own, template_name, args, self._tokenizer)
        trainer = self._trainer(train_rows, 0, {"packing": False}, heldout_rows)
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise ValueError("A comparison needs the whole model on each device. Launch without FSDP and DeepSpeed.")
        self._prepared = trainer.train_dataset
        # Pool indices of the prepared rows: TRL leaves out rows without a completion token within `max_length`.
        self.usable = np.array(self._prepared[POOL_INDEX])
        self._place_of = {int(index): place for place, index in enumerate(self.usable)}
        sets = {}
        for name, own in trainer.eval_dataset.items():
            sets[name] = [_segment(row, trainer.data_collator) for row in own]
            if not sets[name]:
                which = f" of {name}" if name else ""
                raise ValueError(
                    f"No held-out row{which} has a completion token in `max_length`. Raise it, or give shorter rows."
                )
        self.measures = Measures(sets, self._tokenizer, generation, tasks)
        self.segments = self.measures.first
        self.num_tokens = self.measures.weights(None, len(self.segments))
        self._deciding = self._what_decides(trainer)

    def run(self, rows: npt.NDArray[np.int64], seed: int, max_steps: int | None) -> tuple[TuningRun, bool]:
        """Tune and measure, unless the run is on disk; without rows measure the base model.

        Args:
            rows: pool indices in any order; training shuffles the rows by the seed.
            seed: seed of the Trainer: the order of the rows, and the first weights of the adapter.
            max_steps: number of optimizer steps; None for `num_train_epochs` over these rows.

        Returns:
            The run, and whether it was on disk.
        """
        key = {**self._deciding, "seed": seed, "max_steps": max_steps, "rows_sha256": self._rows_hash(rows)}
        path = self._directory / f"{_digest(key)[:20]}.json"
        stored = self._ranks.on_main(lambda: read_run(path, key))
        if stored is not None:
            return stored, True
        found = self._compute(rows, seed, max_steps)
        content = json.dumps({"key": key, "run": dataclasses.asdict(found)})
        self._ranks.on_main(lambda: self._write(path, content))
        return found, False

    def _write(self, path: Path, content: str) -> None:
        make_directory(self._directory)
        write_atomically(path, content.encode())

    def _compute(self, rows: npt.NDArray[np.int64], seed: int, max_steps: int | None) -> TuningRun:
        started = time.monotonic()
        places = self._places(rows)
        steps = {"max_steps": -1 if max_steps is None else max_steps}
        trainer = self._trainer(self._prepared.select(places or [0]), seed, steps)
        if places:
            trainer.train()
        trained = time.monotonic()
        model = trainer.accelerator.unwrap_model(trainer.model)
        found = self.measures.measure(model)
        seconds = trained - started, time.monotonic() - trained
        return TuningRun(found.losses, trainer.state.global_step, *seconds, found.generation, found.measures)

    def _trainer(
        self, rows: Dataset, seed: int, changes: dict[str, Any], heldout: dict[str, Dataset] | None = None
    ) -> SFTTrainer:
        # A comparison is many short jobs: each has one line, and no bars.
        with hidden_bars(), tempfile.TemporaryDirectory() as output_dir:
            model = AutoModelForCausalLM.from_pretrained(self._path, **self._load_options)
            known = {name: value for name, value in QUIET.items() if hasattr(self._args, name)}
            args = dataclasses.replace(self._args, output_dir=output_dir, seed=seed, **known)
            args = dataclasses.replace(args, **changes)
            trainer = SFTTrainer(
                model=model,
                args=dataclasses.replace(args, model_init_kwargs=None),
                train_dataset=rows,
                eval_dataset=heldout,
                processing_class=self._tokenizer,
                peft_config=get_peft_config(self._model_config),
            )
        trainer.remove_callback(PrinterCallback)  # one log line for each run is enough
        return trainer

    def _what_decides(self, trainer: SFTTrainer) -> dict[str, Any]:
        """Return everything that a result depends on, apart from rows, seed and steps."""
        args = {}
        for name, value in self._args.to_dict().items():
            if not name.startswith(NOT_DECIDING) and name not in ("seed", "max_steps"):
                args[name] = value
        model = trainer.accelerator.unwrap_model(trainer.model)
        adapter = get_peft_config(self._model_config)
        packages = (accelerate, peft, torch, transformers, trl)
        key = {
            "model_sha256": weights_hash(base_weights(model)),
            "config_sha256": config_hash(model),
            "tokenizer_sha256": tokenizer_hash(self._tokenizer),
            "adapter": None if adapter is None else adapter.to_dict(),
            "training": args,
            **self.measures.key,
            "processes": self._ranks.world,
            "device": self._ranks.device.type,
            "versions": {package.__name__: package.__version__ for package in packages},
        }
        if holds_adapters(model):  # the model was loaded from the directory of an adapter
            key["held_adapter_sha256"] = adapter_hash(inner_model(model))
        if "quantization_config" in self._load_options:
            key["quantization"] = self._load_options["quantization_config"].to_dict()
        turn_end = find_turn_end(self._tokenizer)
        if self._generation is not None and turn_end not in (None, self._tokenizer.eos_token_id):
            key["turn_end"] = turn_end  # completions of earlier versions did not stop there
        # The key is compared with one that was read from JSON.
        spelled: dict[str, Any] = json.loads(json.dumps(key, sort_keys=True, default=_json_value))
        return spelled

    def _places(self, rows: npt.NDArray[np.int64]) -> list[int]:
        """Return the places of pool indices among the prepared rows, ascending."""
        return sorted(self._place_of[int(index)] for index in rows)

    def _rows_hash(self, rows: npt.NDArray[np.int64]) -> str:
        if not len(rows):
            return _digest([])
        prepared = self._prepared.select(self._places(rows))
        return _digest([prepared[name][:] for name in LOSS_COLUMNS if name in prepared.column_names])

    def steps_of_epochs(self, num_rows: int) -> int:
        """Return the optimizer steps of `num_train_epochs` over so many rows."""
        args = self._args
        batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * self._ranks.world
        steps_per_epoch = max(1, int(np.ceil(num_rows / batch)))
        return int(np.ceil(args.num_train_epochs * steps_per_epoch))


def read_run(path: Path, key: dict[str, Any]) -> TuningRun | None:
    """Read a finished run; None if there is none, if the file is damaged or if it belongs to another key."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return TuningRun(**content["run"]) if content.get("key") == key else None


def _segment(row: dict[str, Any], collate: Callable[[list[Any]], Any]) -> Segment:
    """Return the tokens of a prepared row on which TRL puts loss, as its collator says."""
    labels = collate([row])["labels"][0].tolist()
    # The first token has no context, so it has no loss.
    positions = []
    for position, label in enumerate(labels[1:], 1):
        if label != -100:
            positions.append(position)
    return scored_at(list(row["input_ids"]), positions)


def _json_value(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
