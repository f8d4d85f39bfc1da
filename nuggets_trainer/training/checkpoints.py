"""The file that keeps a golden set with its checkpoint. Knows no trainer and no model."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from nuggets_trainer.config.removed import REMOVED
from nuggets_trainer.golden.selection import GoldenSet
from nuggets_trainer.store.files import write_atomically

SELECTION_FILE = "nuggets_selection.json"


@dataclass
class Reselection:
    """What a job that chooses its golden set again needs to go on where it was.

    Attributes:
        anchor_indices: pool indices of the anchors that were chosen for the first golden set; None when given.
        first: pool indices of the first golden set.
        refills: what is in the slots of the golden set, and from when on: dicts with `epoch`, `position` (rows of the
            epoch before it) and `rows` (pool indices, one per slot).
        history: one summary per golden set, the first one included.
    """

    anchor_indices: list[int] | None
    first: list[int]
    refills: list[dict[str, Any]]
    history: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def start(cls, golden_set: GoldenSet, anchor_indices: list[int] | None) -> Reselection:
        """Begin with this golden set, in pool order."""
        rows = np.sort(golden_set.indices).tolist()
        return cls(
            anchor_indices=anchor_indices,
            first=golden_set.indices.tolist(),
            refills=[{"epoch": 0, "position": 0, "rows": rows}],
            history=[{"step": 0.0, **golden_set.summary()}],
        )

    def record(self, step: int, before: npt.NDArray[np.int64], golden_set: GoldenSet) -> dict[str, float]:
        """Add a golden set to the history; return its summary, with what it has kept of the last and of the first."""
        summary = {
            "kept": float(np.isin(before, golden_set.indices).sum()),
            "kept_of_first": float(np.isin(self.first, golden_set.indices).sum()),
            **golden_set.summary(),
        }
        self.history.append({"step": float(step), **summary})
        return summary


def save_selection(
    path: Path, golden_set: GoldenSet, settings: dict[str, str], reselection: Reselection | None = None
) -> None:
    """Write as JSON: the settings a golden set was chosen under, all fields of `GoldenSet`, and of `Reselection`."""
    fields = {
        name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(golden_set).items()
    }
    if reselection is not None:
        fields["reselection"] = dataclasses.asdict(reselection)
    write_atomically(path, json.dumps({"settings": settings, **fields}, indent=1).encode())


def load_selection(path: Path, settings: dict[str, str]) -> tuple[GoldenSet, Reselection | None]:
    """Read a golden set back, and how far its choosing again had got.

    Raises:
        FileNotFoundError: if no golden set was saved with the checkpoint.
        ValueError: if it was chosen under other settings; the error names those that differ.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no checkpoint {path.parent}.")
    if not path.is_file():
        raise FileNotFoundError(
            f"The checkpoint {path.parent} has no {path.name}: it was not made with selection, or the job died while "
            "saving it. Resume from an earlier checkpoint, or start anew without `resume_from_checkpoint`."
        )
    fields = json.loads(path.read_text())
    # Checkpoints of earlier versions name options that are gone; their golden set holds all the same.
    saved = {name: value for name, value in fields.pop("settings").items() if name not in REMOVED}
    names = sorted(name for name in saved.keys() | settings.keys() if saved.get(name) != settings.get(name))
    if names:
        changes = ", ".join(f"{name} was {saved.get(name)} and is now {settings.get(name)}" for name in names)
        raise ValueError(
            f"The checkpoint {path.parent} was trained on a golden set that was chosen otherwise: {changes}. Resume "
            "with the settings it was started with, or start anew in another `output_dir` (with this one's "
            "`score_dir`, its scores are reused)."
        )
    reselection = fields.pop("reselection", None)
    fields["indices"] = np.array(fields["indices"], dtype=np.int64)
    for name in ("golden_score", "standard_error", "mean_gain"):
        fields[name] = np.array(fields[name], dtype=np.float64)
    golden_set = GoldenSet(**{**fields, "rule": tuple(fields["rule"])})
    return golden_set, None if reselection is None else Reselection(**reselection)


def last_complete_checkpoint(output_dir: str | Path) -> str | None:
    """Path of the newest checkpoint whose golden set was saved, which is the last thing written; None without one."""
    found = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*/{SELECTION_FILE}")
    steps = {int(step): path.parent for path in found if (step := path.parent.name.rsplit("-", 1)[1]).isdigit()}
    return str(steps[max(steps)]) if steps else None
