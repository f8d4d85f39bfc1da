"""Arguments of the main job that are neither TRL's own nor part of `NuggetsConfig`, and checks of those that are.

The module is separate from the job because the command line reads it without importing torch.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from trl import ScriptArguments

from nuggets_trainer.config.places import PoolArguments, RowPlace, read_places
from nuggets_trainer.wording import first_cause

if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig


@dataclass
class RecipeArguments(PoolArguments, ScriptArguments):  # type: ignore[misc]  # trl has no types
    """TRL's script arguments, the pool's with our own help, and the evaluation rows."""

    title: ClassVar[str] = PoolArguments.title

    dataset_test_split: str = field(
        default="test",
        metadata={
            "help": "Split of the evaluation rows: of each place in `eval_dataset_name` that names none, or of "
            "`dataset_name`."
        },
    )
    eval_dataset_name: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Evaluation rows: a hub dataset, a local directory, or a .json, .jsonl, .csv or .parquet file. "
            "Give several sets as a mapping of names to such places, as for `anchors`: "
            '{"in_domain": "heldout.jsonl", "other": "other.jsonl"}. Their losses are called eval_in_domain_loss and '
            "eval_other_loss. On the command line a mapping is JSON in quotes. Default: `dataset_test_split` of "
            "`dataset_name` when `eval_strategy` asks for evaluation."
        },
    )

    @property
    def eval_sets(self) -> dict[str, RowPlace] | None:
        """Places of `eval_dataset_name` by name, a set without a name under the empty one; None if it is not given.

        Raises:
            TypeError: if it is neither a place nor a mapping of names to places.
        """
        if self.eval_dataset_name is None:
            return None
        try:
            sets = read_places(self.eval_dataset_name, self.dataset_test_split)
        except ValueError as error:
            raise TypeError(
                "`eval_dataset_name` must be a non-empty string, a mapping with `path` and, if needed, `name` and "
                f"`split`, or a mapping of names to either, got {self.eval_dataset_name!r} ({error})."
            ) from error
        for name in sets:
            if sets.keys() != {""} and re.fullmatch(r"\w[\w.-]*", str(name)) is None:
                raise ValueError(
                    f"`eval_dataset_name`: a set must be named by letters, digits and `_.-`, got {name!r}."
                )
        if not sets:
            raise ValueError("`eval_dataset_name` is an empty mapping. Give at least one set, or leave it out.")
        return sets


def check_best_metric(args: SFTConfig, eval_rows: Any) -> None:
    """Refuse to look for the best model by a loss that is not there: each of several evaluation sets has its own.

    Args:
        args: training arguments.
        eval_rows: evaluation rows; a mapping if there are several sets.

    Raises:
        ValueError: if `metric_for_best_model` is the loss of all sets.
    """
    if isinstance(eval_rows, dict) and args.metric_for_best_model in ("loss", "eval_loss"):
        names = ", ".join(f"eval_{name}_loss" for name in eval_rows)
        raise ValueError(
            f"`metric_for_best_model` must say which set decides, got {args.metric_for_best_model!r}. Choose one of "
            f"{names}."
        )


def model_init_kwargs(args: SFTConfig, model: ModelConfig) -> dict[str, Any]:
    """Collect the arguments of `from_pretrained` for the model that is tuned.

    Args:
        args: training arguments; their `model_init_kwargs` win over `model`.
        model: model options.
    """
    # `trust_remote_code` is an option of SFTConfig; in older versions of TRL it is one of ModelConfig.
    options = args if hasattr(args, "trust_remote_code") else model
    return {
        "revision": model.model_revision,
        "trust_remote_code": options.trust_remote_code,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        **(args.model_init_kwargs or {}),
    }


def load_options(args: SFTConfig, model: ModelConfig) -> dict[str, Any]:
    """Collect the arguments of `from_pretrained` for a program that loads the model in place of the trainer.

    They are those of `model_init_kwargs`, and the quantization, which TRL takes as an argument of its trainer.

    Args:
        args: training arguments.
        model: model options.
    """
    from trl import get_quantization_config

    options = model_init_kwargs(args, model)
    quantization_config = get_quantization_config(model)
    if quantization_config is not None:
        options["quantization_config"] = quantization_config
    return options


def check_report_to(names: Collection[str]) -> None:
    """Refuse a tracker that transformers does not know, before the model is loaded.

    Args:
        names: names of trackers, `report_to` of the training arguments.

    Raises:
        ValueError: if one is not known; the error says the nearest one.
    """
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            near = difflib.get_close_matches(name, INTEGRATION_TO_CALLBACK, n=1)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            raise ValueError(
                f"`--report_to` must be `none`, `all` or one of {', '.join(sorted(INTEGRATION_TO_CALLBACK))}, got "
                f"{name!r}.{hint}"
            )


@contextlib.contextmanager
def errors_name_the_lora_targets(config: Any) -> Iterator[None]:
    """Turn PEFT's error about target modules into a message with the names of the layers that the model has.

    Args:
        config: config of the model that is tuned.

    Raises:
        ValueError: in place of PEFT's error, which is its cause.
    """
    try:
        yield
    except ValueError as error:
        if re.search("target.modules", str(error), re.IGNORECASE) is None:
            raise
        layers = ", ".join(_linear_layers(config)) or "none"
        raise ValueError(
            f"`--lora_target_modules`: {first_cause(error)}. The linear layers of this model are: {layers}. Name some "
            "of them, or take `--lora_target_modules all-linear`."
        ) from error


def _linear_layers(config: Any) -> list[str]:
    """List the names of the linear layers of a model, without its weights; the head is not among them."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    names = set()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings():
            names.add(name.rpartition(".")[2])
    return sorted(names)
