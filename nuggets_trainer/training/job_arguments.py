"""Arguments of the main job that are neither TRL's own nor part of `NuggetsConfig`.

The module is separate from the job because the command line reads it without importing torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from trl import ScriptArguments


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
