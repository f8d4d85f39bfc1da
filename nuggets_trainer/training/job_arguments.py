"""Arguments of the main job that are neither TRL's own nor part of `NuggetsConfig`.

The module is separate from the job because the command line reads it without importing torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from trl import ScriptArguments

if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig


@dataclass
class RecipeArguments(ScriptArguments):  # type: ignore[misc]  # trl has no types
    """TRL's script arguments, and the evaluation rows."""

    title: ClassVar[str] = "rows (names and defaults of trl.ScriptArguments)"

    eval_dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Evaluation rows: a hub dataset, a local directory, or a .json, .jsonl, .csv or .parquet file. "
            "Default: `dataset_test_split` of `dataset_name` when `eval_strategy` asks for evaluation."
        },
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
