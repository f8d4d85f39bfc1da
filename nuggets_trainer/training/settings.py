"""What a checkpoint remembers of the job: settings that the golden set depends on, and options of training.

Both are saved with the golden set. A resumed job compares its own with them: other settings are refused, other options
of training are named in a warning.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import logging
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from transformers.trainer import TRAINING_ARGS_NAME

from nuggets_trainer.config.anchor_options import DEFAULT_NUM_ANCHORS
from nuggets_trainer.config.nuggets_config import NuggetsConfig
from nuggets_trainer.data.dataset import source_of
from nuggets_trainer.engine.adapters import inner_model
from nuggets_trainer.store.fingerprint import config_hash, written_with
from nuggets_trainer.store.selection_file import MODEL_CONFIG
from nuggets_trainer.wording import first_cause

if TYPE_CHECKING:
    from nuggets_trainer.data.pool import Pool
    from nuggets_trainer.prompts.templates import Template
    from nuggets_trainer.scoring.session import AnchorPools

logger = logging.getLogger(__name__)

# What reading a pickle of other versions of these packages, or a torn one, ends in.
NOT_READABLE = (AttributeError, EOFError, ImportError, OSError, RuntimeError, TypeError, ValueError, UnpicklingError)
# Options that are named only if they are set: unset, they do not influence the golden set.
IF_SET = (
    "scorer_model",
    "scorer_model_init_kwargs",
    "reselect_steps",
    "coverage_weight",
    "group_by",
    "max_rows_per_prompt",
    "max_similarity",
    "require",
    "decontaminate",
)
# Options that are named only if they are not the default, for the same reason.
UNLESS_DEFAULT = {
    "reselect": "no",
    "group_quota": "proportional",
    "combine_anchor_sets": "mean",
    "rank_by": "golden_score",
    "deduplicate": "exact",
}
# Options of training that change what a job gives. The number of processes is left out: it may change.
TRAINING_OPTIONS = (
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "optim",
    "optim_args",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "label_smoothing_factor",
    "neftune_noise_alpha",
    "bf16",
    "fp16",
    "seed",
    "data_seed",
    "max_length",
    "truncation_mode",
    "packing",
    "packing_strategy",
    "completion_only_loss",
    "assistant_only_loss",
    "loss_type",
    "train_sampling_strategy",
)
ADAPTER_OPTIONS = ("r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "target_modules")


def training_options(args: Any, model: Any = None) -> dict[str, Any]:
    """Collect the options of training that change what a job gives; JSON can hold them.

    Args:
        args: arguments of a trainer, of any version.
        model: model that is tuned; the options of its active adapter and the dtype of its weights are added.
    """
    options = {}
    for name in TRAINING_OPTIONS:
        if hasattr(args, name):
            options[name] = _plain(getattr(args, name))
    if model is not None:
        options["dtype"] = str(inner_model(model).dtype).removeprefix("torch.")
    adapters = getattr(model, "peft_config", {})
    adapter = adapters.get(getattr(model, "active_adapter", None)) if hasattr(model, "get_base_model") else None
    for name in ADAPTER_OPTIONS:
        if hasattr(adapter, name):
            options[name] = _plain(getattr(adapter, name))
    return options


def _plain(value: Any) -> Any:
    """Return a value as JSON gives it back."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (set, tuple)):
        return sorted(value) if isinstance(value, set) else list(value)
    return value if value is None or isinstance(value, (bool, int, float, str, list, dict)) else str(value)


def read_training_options(checkpoint: Path) -> dict[str, Any]:
    """Read the options of training from the file that the Trainer writes into each checkpoint.

    Only classes of arguments are unpickled. The result is empty if the file is not there, and, with a warning, if it
    has other classes or cannot be read, as may be after other versions of these packages.
    """
    file = checkpoint / TRAINING_ARGS_NAME
    if not file.is_file():
        return {}
    try:
        with torch.serialization.safe_globals(_classes_in(file)):
            return training_options(torch.load(file, weights_only=True))
    except NOT_READABLE as error:
        logger.warning(
            "The options of training in %s cannot be read (%s), so they are not compared with those of this job.",
            file,
            first_cause(error),
        )
        return {}


def _classes_in(file: Path) -> list[Any]:
    """Return the classes that are pickled in a file.

    Raises:
        UnpicklingError: if one of them is no class of arguments.
    """
    classes: list[Any] = []
    for name in torch.serialization.get_unsafe_globals_in_checkpoint(file):
        module, _, attribute = name.rpartition(".")
        is_known = module.split(".")[0] in ("transformers", "trl", "accelerate")
        found = getattr(import_module(module), attribute) if is_known else None
        if not _holds_arguments(found):
            raise UnpicklingError(f"it has a {name}")
        classes.append(found)
    return classes


def _holds_arguments(found: Any) -> bool:
    if not isinstance(found, type):
        return False
    return issubclass(found, (enum.Enum, PartialState)) or dataclasses.is_dataclass(found)


def describe_changes(saved: dict[str, Any], given: dict[str, Any]) -> str:
    """Name the values that differ, of those that both have; "" if there are none."""
    changes = []
    for name in given:
        if name in saved and saved[name] != given[name]:
            changes.append(f"{name} was {saved[name]} and is now {given[name]}")
    return ", ".join(changes)


def check_adapters(checkpoint: Path, tunes_adapter: bool) -> None:
    """Refuse a checkpoint of an adapter for a job that tunes the whole model, and the other way round.

    Args:
        checkpoint: directory of the checkpoint.
        tunes_adapter: whether this job tunes an adapter.

    Raises:
        ValueError: if they differ. A checkpoint that shows neither (a sharded one) is accepted.
    """
    has_adapter = any(checkpoint.rglob("adapter_config.json"))
    has_model = any(checkpoint.glob("model*.safetensors")) or any(checkpoint.glob("pytorch_model*.bin"))
    if has_adapter != has_model and has_adapter != tunes_adapter:
        kinds = {True: "an adapter", False: "the whole model"}
        raise ValueError(
            f"The checkpoint {checkpoint} holds {kinds[has_adapter]}, but this job tunes {kinds[tunes_adapter]} "
            "(`use_peft`). Resume with the setting that the job was started with. Or start again in another "
            "`output_dir`; the scores are used again if you give the `score_dir` of the first job."
        )


def describe_rows(config: NuggetsConfig, pool: Pool, anchors: AnchorPools | None) -> dict[str, Any]:
    """Return where pool and anchors can be loaded from, for `nuggets evaluate`.

    Args:
        config: user's config.
        pool: candidates.
        anchors: anchors by set; None if they are chosen from the pool.

    Returns:
        A dict for JSON; None for a place that is not known.
    """
    places: dict[str, Any] = {"pool": source_of(pool.dataset), "anchors": {}}
    for name, rows in (anchors or {}).items():
        places["anchors"][name] = source_of(rows.dataset)
    own = {"pool_size": config.pool_size, "columns": config.columns, "anchor_columns": config.anchor_columns}
    return {**places, **own, "dataset_text_field": pool.text_field}


def selection_settings(
    config: NuggetsConfig, pool: Pool, anchors: AnchorPools | None, template: Template, model: Any
) -> dict[str, str]:
    """Collect what the golden set depends on.

    The model is named by its config alone: a hash of its weights would read gigabytes.

    Args:
        config: user's config.
        pool: candidates.
        anchors: anchors by set; None if they are chosen from the pool.
        template: template that renders the rows.
        model: model that is tuned.

    Returns:
        Values by name, all of them texts.
    """
    settings = {
        "pool_rows": str(len(pool)),
        "pool_sha256": pool.content_hash,
        "anchors": _describe_anchors(config, anchors),
        "rule": "{}={}".format(*config.selection_rule),
        "exclude_self": str(config.exclude_self),
        "score_dtype": config.score_dtype,
        "model_config_sha256": config_hash(model),
        MODEL_CONFIG: json.dumps(written_with(model), sort_keys=True),
    }
    described = template.describe()
    # A rendered chat may hold today's date, and a job must be resumable tomorrow.
    described.pop("chat_template_renders_sha256", None)
    settings.update(described)
    for name, default in UNLESS_DEFAULT.items():
        value = getattr(config, name)
        if value != default:
            settings[name] = value
    if config.rank_by != "golden_score":
        # A race for gains finds a part of the golden set of the exact schedule.
        settings["schedule"] = config.schedule_in_force
        if config.schedule_in_force == "race":
            settings["race_recall"] = str(config.race_recall)
    for name in IF_SET:
        value = getattr(config, name)
        if value is not None:
            settings[name] = str(value)
    return settings


def _describe_anchors(config: NuggetsConfig, anchors: AnchorPools | None) -> str:
    if anchors is None:
        number = config.num_anchors or DEFAULT_NUM_ANCHORS
        return f"{config.anchor_selection} {number}, seed {config.anchor_seed}"
    # Where an unreadable anchor stands does not change a golden score.
    hashes = [f"{name} sha256 {pool.hash_without_places}".strip() for name, pool in anchors.items()]
    drawn = ""
    if config.num_anchors is not None:
        drawn = f", {config.num_anchors} of them drawn, seed {config.anchor_seed}"
    return f"given, {', '.join(hashes)}{drawn}"
