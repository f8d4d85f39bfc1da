"""nuggets_selection.json beside a model or a checkpoint: the golden set, and the settings under which it was chosen.

A model may be published with this file, so it names local files without their folders. The full paths are in
_nuggets_rows.json of the same job: the Trainer does not upload files whose names begin with an underscore.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nuggets_trainer.config.places import RowPlace
from nuggets_trainer.config.removed import REMOVED
from nuggets_trainer.golden.scores import VALUES
from nuggets_trainer.golden.selection import GoldenSet
from nuggets_trainer.store.files import write_atomically
from nuggets_trainer.store.fingerprint import may_be_one_config
from nuggets_trainer.wording import counted

if TYPE_CHECKING:
    from nuggets_trainer.data.pool import Pool

logger = logging.getLogger(__name__)

SELECTION_FILE = "nuggets_selection.json"
ROW_PLACES_FILE = "_nuggets_rows.json"
BESIDE = ("training", "verdict", "rows")  # in that file, and no part of the golden set
# The config whose hash is `model_config_sha256`, with the version of transformers that spelled it so.
MODEL_CONFIG = "model_config"


@dataclass
class Reselection:
    """State of a job that chooses its golden set again during training; with it a resumed job goes on.

    Attributes:
        anchor_indices: pool indices of the anchors that were chosen from the pool; None if the user gave anchors.
        first: pool indices of the first golden set.
        refills: contents of the slots over time, as `Slots.state` returns them: dicts with `epoch`, `position` (number
            of rows of this epoch that were drawn before) and `rows` (pool indices, one per slot).
        history: one summary per golden set, the first one included.
    """

    anchor_indices: list[int] | None
    first: list[int]
    refills: list[dict[str, Any]]
    history: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def start(cls, golden_set: GoldenSet, anchor_indices: list[int] | None) -> Reselection:
        """Build the state of a job whose slots hold this golden set, in pool order, from the first row on."""
        rows = np.sort(golden_set.indices).tolist()
        return cls(
            anchor_indices=anchor_indices,
            first=golden_set.indices.tolist(),
            refills=[{"epoch": 0, "position": 0, "rows": rows}],
            history=[{"step": 0.0, **golden_set.summary()}],
        )

    def record(self, step: int, before: npt.NDArray[np.int64], golden_set: GoldenSet) -> dict[str, float]:
        """Add a golden set to the history; return its summary.

        Args:
            step: number of optimizer steps taken so far.
            before: pool indices of the golden set that it replaces.
            golden_set: new golden set.

        Returns:
            Numbers by name. `kept` is the number of rows that were in the golden set before, and `kept_of_first` the
            number of rows that were in the first one.
        """
        summary = {
            "kept": float(np.isin(before, golden_set.indices).sum()),
            "kept_of_first": float(np.isin(self.first, golden_set.indices).sum()),
            **golden_set.summary(),
        }
        self.history.append({"step": float(step), **summary})
        return summary


def save_selection(
    path: Path,
    golden_set: GoldenSet,
    settings: dict[str, str],
    reselection: Reselection | None = None,
    beside: dict[str, Any] | None = None,
) -> None:
    """Write a golden set as JSON.

    Args:
        path: file to write.
        golden_set: golden set in force.
        settings: settings that the golden set depends on; a resumed job compares its own with them.
        reselection: state of choosing again; None if the golden set stays the same during training.
        beside: what else is kept: `training` (options of training; a resumed job warns where its own differ),
            `verdict` (of the report, for the model card of a resumed job), and `rows` (where pool and anchors are).
    """
    fields: dict[str, Any] = {"settings": settings, "training": {}, "verdict": {}, "rows": {}, **(beside or {})}
    fields["rows"] = _without_folders(fields["rows"])
    for name, value in vars(golden_set).items():
        fields[name] = value.tolist() if isinstance(value, np.ndarray) else value
    if reselection is not None:
        fields["reselection"] = dataclasses.asdict(reselection)
    write_atomically(path, json.dumps(fields, indent=1).encode())


def load_selection(
    path: Path, settings: dict[str, str], pool: Pool | None = None
) -> tuple[GoldenSet, Reselection | None]:
    """Read what `save_selection` wrote.

    Args:
        path: file in the directory of a checkpoint.
        settings: settings of this job.
        pool: candidates, for a checkpoint of an earlier version, whose hash of the pool was another one.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the golden set was chosen under other settings; the error names those that differ.
    """
    fields = json.loads(path.read_text(encoding="utf-8"))
    saved = fields.pop("settings")
    for name in BESIDE:
        fields.pop(name, None)
    for name in REMOVED:  # a checkpoint of an earlier version may name options that are gone; it can still be used
        saved.pop(name, None)
    if "pool_rows" not in saved and pool is not None:
        saved = _in_todays_terms(path.parent, saved, fields["num_rows"], pool)
    _check_settings(path.parent, saved=saved, given=settings)
    reselection = fields.pop("reselection", None)
    fields["rule"] = tuple(fields["rule"])
    fields["indices"] = np.array(fields["indices"], dtype=np.int64)
    unknown = [math.nan] * len(fields["indices"])  # of a checkpoint that an earlier version wrote
    for value, error in VALUES:
        for name in (value, error):
            fields[name] = np.array(fields.get(name, unknown), dtype=np.float64)
    if fields.get("signal") is not None:
        fields["signal"] = np.array(fields["signal"], dtype=np.float64)
    golden_set = GoldenSet(**fields)
    return golden_set, None if reselection is None else Reselection(**reselection)


def is_checkpoint(directory: Path) -> bool:
    """Whether the Trainer gives a directory this name for a checkpoint; a job may be in one named `checkpoints`."""
    return re.fullmatch(r"checkpoint-\d+", directory.name) is not None


def save_row_places(directory: Path, rows: dict[str, Any]) -> None:
    """Write where pool and anchors lie on this machine, for `read_row_places`."""
    write_atomically(directory / ROW_PLACES_FILE, json.dumps(rows, indent=1).encode())


def read_row_places(path: Path) -> dict[str, Any]:
    """Return where pool and anchors of a golden set are, as `training.settings.describe_rows` gives it.

    Args:
        path: file that `save_selection` wrote. The places on this machine are in its directory, or in the one above,
            if it is that of a checkpoint. Without them, a local file is known by its name alone.
    """
    directories = [path.parent]
    if is_checkpoint(path.parent):
        directories.append(path.parent.parent)
    for directory in directories:
        if (directory / ROW_PLACES_FILE).is_file():
            path = directory / ROW_PLACES_FILE
            places: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return places
    return json.loads(path.read_text(encoding="utf-8")).get("rows") or {}


def _without_folders(rows: dict[str, Any]) -> dict[str, Any]:
    """Name local files of pool and anchors without their folders; datasets on the hub keep their names."""
    shown = dict(rows)
    if "pool" in rows:
        shown["pool"] = _name_alone(rows["pool"])
        shown["anchors"] = {name: _name_alone(place) for name, place in rows["anchors"].items()}
    return shown


def _name_alone(place: RowPlace | None) -> RowPlace | None:
    if place is None or not Path(place.path).is_absolute():
        return place
    return place._replace(path=Path(place.path).name)


def changed_settings(saved: Mapping[str, str], given: Mapping[str, str]) -> list[str]:
    """Describe each setting that differs, except where only another version of transformers writes it differently.

    Args:
        saved: settings of a checkpoint.
        given: settings of this job.
    """
    changes = []
    for name in sorted((saved.keys() | given.keys()) - {MODEL_CONFIG}):
        if saved.get(name) == given.get(name):
            continue
        if name == "model_config_sha256" and _may_be_one_model(saved, given):
            continue
        changes.append(f"{name} was {saved.get(name)} and is now {given.get(name)}")
    return changes


def _in_todays_terms(checkpoint: Path, saved: dict[str, str], num_rows: int, pool: Pool) -> dict[str, str]:
    """Complete the settings of an earlier version, whose hash did not see where unreadable rows stand.

    Equal numbers of rows prove that no unreadable row was deleted or added. They do not prove that none was moved.
    """
    pool_sha256 = saved.get("pool_sha256")
    if num_rows == len(pool) and pool_sha256 == pool.hash_without_places:
        pool_sha256 = pool.content_hash
        if pool.unreadable:
            logger.warning(
                "The checkpoint %s is from an earlier version, which did not save the positions of the %s that cannot "
                "be used. No such row was deleted or added. If one was moved, put it back, or start again.",
                checkpoint,
                counted(len(pool.unreadable), "row"),
            )
    return {**saved, "pool_rows": str(num_rows), "pool_sha256": str(pool_sha256)}


def _check_settings(checkpoint: Path, saved: Mapping[str, str], given: Mapping[str, str]) -> None:
    changes = changed_settings(saved, given)
    if changes:
        raise ValueError(
            f"The golden set of the checkpoint {checkpoint} was chosen under other settings: {', '.join(changes)}. "
            "Resume with the settings that the job was started with. Or start again in another `output_dir`; the "
            "scores are used again if you give the `score_dir` of the first job."
        )


def _may_be_one_model(saved: Mapping[str, str], given: Mapping[str, str]) -> bool:
    if MODEL_CONFIG in saved and MODEL_CONFIG in given:
        return may_be_one_config(json.loads(saved[MODEL_CONFIG]), json.loads(given[MODEL_CONFIG]))
    logger.warning(
        "The checkpoint was written by an earlier version of nuggets_trainer, and the hash of its model's config is "
        "different now. Another version of transformers can cause this. Make sure that the model is the same."
    )
    return True
