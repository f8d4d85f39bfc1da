"""One run of a comparison: tune on these rows with this seed, then the loss of every held-out row. Kept on disk.

A finished run is one small JSON file, named by a hash of all that decides its result and spelling it out: rows, seed,
training arguments, adapter, base model, held-out rows, versions. A changed setting is another file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import numpy.typing as npt
import peft
import torch
import transformers
import trl
from compare_generation import generated_quality
from datasets import Dataset, disable_progress_bars
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config

from nuggets_trainer.demo import resolve_demo
from nuggets_trainer.engine.log_probs import LogProbEngine
from nuggets_trainer.engine.model import base_model
from nuggets_trainer.prompts.segment import Segment, scored_at
from nuggets_trainer.prompts.templates import resolve_alpaca_template
from nuggets_trainer.prompts.trl_columns import alpaca_to_trl, hub_options, is_alpaca
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.store.files import make_directory, write_atomically
from nuggets_trainer.store.fingerprint import base_weights, config_hash, tokenizer_hash, weights_hash
from nuggets_trainer.training.job import model_init_kwargs

logger = logging.getLogger("nuggets_trainer.compare")

POOL_INDEX = "_pool_index"
# Arguments of training that no weight depends on.
NO_MATTER = ("logging_", "save_", "eval_", "hub_", "push_", "report_", "disable_tqdm", "output_dir", "run_name")


@dataclasses.dataclass(frozen=True)
class Run:
    """What one run gave: `losses` of the held-out rows, `(h,)`, nats per completion token."""

    losses: list[float]
    steps: int
    training_seconds: float
    evaluation_seconds: float
    generation: float | None


class Laboratory:
    """Tunes the same base model on other rows of one pool, with the arguments of the main job.

    Args:
        args: of the main job; `max_steps` is set by the runs.
        model: of the main job.
        template_name: how rows with Alpaca columns are written, as `NuggetsConfig.template`.
        pool: all rows.
        candidates: pool indices of those that can be in an arm.
        heldout: rows to measure on.
        directory: where runs are kept.
        generation: None, or metric and number of held-out rows to generate from.

    Raises:
        ValueError: if held-out rows have nothing to measure, or if the model would be sharded.
    """

    def __init__(
        self,
        args: SFTConfig,
        model: ModelConfig,
        template_name: str,
        pool: Dataset,
        candidates: list[int],
        heldout: Dataset,
        directory: Path,
        generation: tuple[str, int] | None,
    ) -> None:
        self._args, self._model_config, self._directory, self._generation = args, model, directory, generation
        self._path = resolve_demo(model.model_name_or_path)
        self._tokenizer = AutoTokenizer.from_pretrained(self._path, **hub_options(args))
        self._engine_path: str | None = None
        self._ranks = Ranks()
        template = resolve_alpaca_template(template_name, self._tokenizer.chat_template)
        disable_progress_bars()  # a comparison is many short jobs
        rows = pool.select(candidates).add_column(POOL_INDEX, candidates)
        trainer = self._trainer(_trl_rows(rows, template), 0, {"packing": False}, _trl_rows(heldout, template))
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise ValueError("A comparison needs the whole model on each device: launch without FSDP and DeepSpeed.")
        self._prepared = trainer.train_dataset
        place = np.array(self._prepared[POOL_INDEX])
        self._place_of = {int(i): p for p, i in enumerate(place)}
        self.usable = place  # pool indices; TRL leaves out rows that have no completion token in `max_length`
        self.segments = [_segment(row, trainer.data_collator) for row in trainer.eval_dataset]
        if not self.segments:
            raise ValueError("No held-out row has a completion token in `max_length`. Raise it, or give shorter rows.")
        self.num_tokens = np.array([segment.num_completion_tokens for segment in self.segments])
        self._deciding = self._what_decides(trainer)
        self.full_steps = self._steps_of(len(self._prepared))

    def run(self, rows: npt.NDArray[np.int64], seed: int, max_steps: int | None) -> tuple[Run, bool]:
        """Tune and measure, unless this was done before; an empty `rows` measures the base model.

        Args:
            rows: pool indices, in any order: they are trained on in pool order, shuffled by the seed.
            seed: of the Trainer: order of the rows, and first weights of the adapter.
            max_steps: optimizer steps; None for `num_train_epochs` over these rows.

        Returns:
            The run, and whether it was on disk.
        """
        key = {**self._deciding, "seed": seed, "max_steps": max_steps, "rows_sha256": self._rows_hash(rows)}
        path = self._directory / f"{_digest(key)[:20]}.json"
        stored = self._ranks.on_main(lambda: _read(path, key))
        if stored is not None:
            return stored, True
        found = self._compute(rows, seed, max_steps)
        content = json.dumps({"key": key, "run": dataclasses.asdict(found)})
        self._ranks.on_main(lambda: self._write(path, content))
        return found, False

    def _write(self, path: Path, content: str) -> None:
        make_directory(self._directory)
        write_atomically(path, content.encode())

    def _compute(self, rows: npt.NDArray[np.int64], seed: int, max_steps: int | None) -> Run:
        started = time.monotonic()
        places = sorted(self._place_of[int(i)] for i in rows)
        steps = {"max_steps": -1 if max_steps is None else max_steps}
        trainer = self._trainer(self._prepared.select(places or [0]), seed, steps)
        if places:
            trainer.train()
        trained = time.monotonic()
        losses = self._losses(trainer.accelerator.unwrap_model(trainer.model))
        measured = time.monotonic()
        quality = None
        if self._generation is not None:
            model = trainer.accelerator.unwrap_model(trainer.model)
            metric, number = self._generation
            quality = generated_quality(model, self._tokenizer, self.segments[:number], metric)
        return Run(losses, trainer.state.global_step, trained - started, measured - trained, quality)

    def _losses(self, model: Any) -> list[float]:
        """Loss of every held-out row; each rank measures its share."""
        with base_model(model, adapter=True) as base:
            engine = LogProbEngine(base, path=self._engine_path)
            own = self._ranks.share(range(len(self.segments)))

            def measure() -> list[tuple[int, float]]:
                return list(zip(own, engine.score([], [self.segments[i] for i in own]).tolist(), strict=True))

            measured = dict(self._ranks.gather_from(measure))
        self._engine_path = engine.path  # of the same architecture: checked once
        return [-measured[i] for i in range(len(self.segments))]

    def _trainer(
        self, rows: Dataset, seed: int, changes: dict[str, Any], heldout: Dataset | None = None
    ) -> SFTTrainer:
        with tempfile.TemporaryDirectory() as output_dir:
            quiet = {"save_strategy": "no", "eval_strategy": "no", "logging_strategy": "no", "report_to": "none"}
            args = dataclasses.replace(
                self._args, output_dir=output_dir, seed=seed, disable_tqdm=True, load_best_model_at_end=False, **quiet
            )
            args = dataclasses.replace(args, **changes)
            model = AutoModelForCausalLM.from_pretrained(
                self._path, **model_init_kwargs(self._args, self._model_config)
            )
            trainer = SFTTrainer(
                model=model,
                args=dataclasses.replace(args, model_init_kwargs=None),
                train_dataset=rows,
                eval_dataset=heldout,
                processing_class=self._tokenizer,
                peft_config=get_peft_config(self._model_config),
            )
        trainer.remove_callback(PrinterCallback)  # a line for each run is enough
        return trainer

    def _what_decides(self, trainer: SFTTrainer) -> dict[str, Any]:
        """Name all that a result depends on, apart from rows, seed and steps."""
        args = {n: v for n, v in self._args.to_dict().items() if not n.startswith(NO_MATTER)}
        for name in ("seed", "max_steps"):
            args.pop(name)
        model = trainer.accelerator.unwrap_model(trainer.model)
        adapter = get_peft_config(self._model_config)
        key = {
            "model_sha256": weights_hash(base_weights(model)),
            "config_sha256": config_hash(model),
            "tokenizer_sha256": tokenizer_hash(self._tokenizer),
            "adapter": None if adapter is None else adapter.to_dict(),
            "training": args,
            "heldout_sha256": _digest([[s.ids, list(s.positions)] for s in self.segments]),
            "generation": self._generation,
            "processes": self._ranks.world,
            "device": self._ranks.device.type,
            "versions": {m.__name__: m.__version__ for m in (accelerate, peft, torch, transformers, trl)},
        }
        spelled: dict[str, Any] = json.loads(json.dumps(key, sort_keys=True, default=_spelled))
        return spelled

    def _rows_hash(self, rows: npt.NDArray[np.int64]) -> str:
        places = sorted(self._place_of[int(i)] for i in rows)
        prepared = self._prepared.select(places)
        # Where the loss is, is in `labels`, or with older versions of TRL in masks.
        deciding = ("input_ids", "labels", "completion_mask", "assistant_masks")
        return _digest([prepared[name][:] for name in deciding if name in prepared.column_names] if places else [])

    def _steps_of(self, num_rows: int) -> int:
        """Optimizer steps of `num_train_epochs` over so many rows."""
        args = self._args
        batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * self._ranks.world
        return int(np.ceil(args.num_train_epochs * max(1, int(np.ceil(num_rows / batch)))))


def _trl_rows(rows: Dataset, template: str) -> Dataset:
    return alpaca_to_trl(rows, template) if is_alpaca(rows.column_names) else rows


def _segment(row: dict[str, Any], collate: Callable[[list[Any]], Any]) -> Segment:
    """Return what TRL puts loss on, of a prepared row, as its collator says; the first token has no context."""
    labels = collate([row])["labels"][0].tolist()
    return scored_at(list(row["input_ids"]), [p for p, label in enumerate(labels) if label != -100 and p > 0])


def _read(path: Path, key: dict[str, Any]) -> Run | None:
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return Run(**content["run"]) if content.get("key") == key else None


def _spelled(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
