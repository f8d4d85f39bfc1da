"""Arguments of the main job that are neither TRL's nor those of selection.

The command line reads this module before it imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from trl import ScriptArguments


@dataclass
class RecipeArguments(ScriptArguments):  # type: ignore[misc]  # trl has no types
    """TRL's script arguments, and where evaluation rows come from."""

    title: ClassVar[str] = "rows (names and defaults of trl.ScriptArguments)"

    eval_dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Evaluation rows: a hub dataset, a local directory, or a .json, .jsonl, .csv or .parquet file. "
            "Default: `dataset_test_split` of `dataset_name` when `eval_strategy` asks for evaluation."
        },
    )
