"""The rows, the model and the options of `nuggets plan` and `nuggets score`: checked, then loaded."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nuggets_trainer.commands.arguments import ScorerArguments
from nuggets_trainer.commands.config_file import texts_on, with_home
from nuggets_trainer.commands.output import rank
from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.config.places import PoolArguments, score_dir_of_job
from nuggets_trainer.config.row_options import RowOptions
from nuggets_trainer.data.directories import FILE_BUILDERS
from nuggets_trainer.data.loading import COMPRESSIONS, check_paths, load_rows

if TYPE_CHECKING:
    from datasets import Dataset

    from nuggets_trainer.data.pool import Pool


class Loaded(NamedTuple):
    """The arguments of `score_pool`."""

    model: Any
    tokenizer: Any
    pool: Pool
    options: dict[str, Any]


def check_given(program: str, rows: PoolArguments, scorer: ScorerArguments, config: NuggetsConfig) -> None:
    """Refuse a command line without a model or a pool.

    Raises:
        ValueError: if one is missing; the error names the options.
    """
    required = {
        "model_name_or_path": config.scorer_model or scorer.model_name_or_path,
        "dataset_name": rows.dataset_name,
    }
    missing = [f"--{name}" for name, value in required.items() if value is None]
    if missing:
        raise ValueError(f"`{program}` needs {', '.join(missing)}.")


def with_score_dir(
    rows: PoolArguments, scorer: ScorerArguments, config: NuggetsConfig, argv: Sequence[str]
) -> NuggetsConfig:
    """Set `score_dir` if it was not given; the main process then prints the directory.

    If the config file has an `output_dir`, the directory is that of training, `<output_dir>/nuggets`. Otherwise its
    name is made from the pool and the model.
    """
    if config.score_dir is not None:
        return config
    output_dir = texts_on(argv).get("output_dir")
    if output_dir:
        place = score_dir_of_job(str(with_home(output_dir)))
    else:
        place = f"scores-{_short(rows.dataset_name)}-{_short(config.scorer_model or scorer.model_name_or_path)}"
    if rank() == 0:
        print(f"`score_dir` was not given: scores go to {place}.", file=sys.stderr)
    return dataclasses.replace(config, score_dir=place)


def _short(name: str | None) -> str:
    """Return the last part of a name or path, without an extension and without characters that a file cannot have."""
    last = Path(str(name).rstrip("/").rsplit("/", 1)[-1])
    if last.suffix in COMPRESSIONS:
        last = last.with_suffix("")
    if last.suffix in FILE_BUILDERS:
        last = last.with_suffix("")
    return re.sub(r"[^\w.-]+", "_", str(last))


def check_places(rows: PoolArguments, scorer: ScorerArguments, config: NuggetsConfig) -> None:
    """Refuse paths that do not exist, before torch is imported.

    Raises:
        FileNotFoundError, ValueError: if a path does not exist; the error names its option.
    """
    models: dict[str, str | None] = {}
    if config.scorer_model is None:  # else that model scores, and `check_paths` finds it in the config
        models["model_name_or_path"] = scorer.model_name_or_path
    check_paths(config, {"dataset_name": rows.dataset_name}, models)


def read_rows(rows: PoolArguments) -> Dataset:
    """Load the rows that the options name."""
    assert rows.dataset_name is not None
    return load_rows(
        rows.dataset_name,
        rows.dataset_config,
        rows.dataset_train_split,
        rows.dataset_streaming,
        option="--dataset_name",
    )


def load(rows: PoolArguments, row_options: RowOptions, scorer: ScorerArguments, config: NuggetsConfig) -> Loaded:
    """Load the rows, and the model onto the device of this process."""
    import datasets
    import transformers
    from trl import get_quantization_config

    from nuggets_trainer.engine.loading import load_scorer_of
    from nuggets_trainer.pipeline.rows import read_pool, scorer_tokenizer
    from nuggets_trainer.ranks import joined_state
    from nuggets_trainer.training.rows import find_training_chat_template, find_training_dtype

    state = joined_state()
    if not state.is_main_process:  # one bar is enough
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
    training_dtype = find_training_dtype(scorer.bf16, scorer.fp16)
    pool = read_pool(read_rows(rows), config, row_options, name="dataset_name")
    name = config.scorer_model or scorer.model_name_or_path
    assert name is not None
    # A YAML may tune one model and score with another. Only the scorer is loaded here.
    own = {
        "dtype": scorer.dtype,
        "revision": scorer.model_revision,
        "attn_implementation": scorer.attn_implementation,
        "trust_remote_code": scorer.trust_remote_code,
    }
    quantization_config = get_quantization_config(scorer)
    if quantization_config is not None:
        own["quantization_config"] = quantization_config
    model, tokenizer = load_scorer_of(config, name, state.device, own)
    tokenizer = scorer_tokenizer(tokenizer, config, row_options)
    options = {
        "config": config,
        "row_options": row_options,
        "training_chat_template": find_training_chat_template(tokenizer, row_options),
        "training_dtype": training_dtype,
    }
    return Loaded(model, tokenizer, pool, options)
