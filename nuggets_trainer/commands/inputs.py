"""What `nuggets plan` and `nuggets score` share: their options, and what these load. Knows no scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from nuggets_trainer.commands.arguments import PoolArguments, ScorerArguments
from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.config.row_options import RowOptions
from nuggets_trainer.data.loading import check_paths

if TYPE_CHECKING:
    from accelerate import PartialState

    from nuggets_trainer.data.pool import Pool


class Loaded(NamedTuple):
    """The arguments of `score_pool`, and the processes of the job."""

    model: Any
    tokenizer: Any
    pool: Pool
    options: dict[str, Any]
    state: PartialState


def check_given(program: str, rows: PoolArguments, scorer: ScorerArguments, config: NuggetsConfig) -> None:
    """Refuse a command line that names no model, rows or place.

    Raises:
        ValueError: with the options that are missing.
    """
    required = {
        "model_name_or_path": config.scorer_model or scorer.model_name_or_path,
        "dataset_name": rows.dataset_name,
        "score_dir": config.score_dir,
    }
    missing = [f"--{name}" for name, value in required.items() if value is None]
    if missing:
        raise ValueError(f"`{program}` needs {', '.join(missing)}.")


def check_places(rows: PoolArguments, scorer: ScorerArguments, config: NuggetsConfig) -> None:
    """Refuse paths that lead nowhere, before torch is imported.

    Raises:
        FileNotFoundError, ValueError: with the option that names the path.
    """
    name = scorer.model_name_or_path if config.scorer_model is None else None  # another model scores
    check_paths(config, {"dataset_name": rows.dataset_name}, {"model_name_or_path": name})


def load(rows: PoolArguments, row_options: RowOptions, scorer: ScorerArguments, config: NuggetsConfig) -> Loaded:
    """Load rows and model, each on this process' device."""
    import datasets
    import torch
    import transformers
    from accelerate import PartialState

    from nuggets_trainer.data.loading import load_rows
    from nuggets_trainer.engine.loading import load_scorer_of
    from nuggets_trainer.pipeline.rows import read_pool, scorer_tokenizer
    from nuggets_trainer.training.rows import find_training_chat_template

    # Without `cpu`, several processes on a machine without an accelerator would not know of each other.
    state = PartialState(cpu=not torch.accelerator.is_available())
    if not state.is_main_process:  # one bar is enough
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
    assert rows.dataset_name is not None
    dataset = load_rows(
        *(rows.dataset_name, rows.dataset_config, rows.dataset_train_split, rows.dataset_streaming),
        option="--dataset_name",
    )
    pool = read_pool(dataset, config, row_options, name="dataset_name")
    name = config.scorer_model or scorer.model_name_or_path
    assert name is not None
    # Of a YAML that tunes one model and scores with another, this program needs the scorer alone.
    own = {
        "dtype": scorer.dtype,
        "revision": scorer.model_revision,
        "attn_implementation": scorer.attn_implementation,
        "trust_remote_code": scorer.trust_remote_code,
    }
    model, tokenizer = load_scorer_of(config, name, state.device, own)
    tokenizer = scorer_tokenizer(tokenizer, config, row_options)
    options = {
        "config": config,
        "row_options": row_options,
        "training_chat_template": find_training_chat_template(tokenizer, row_options),
    }
    return Loaded(model, tokenizer, pool, options, state)
