"""costs.json: what each stage of choosing rows cost, over all jobs of one directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from nuggets_trainer.store.files import write_atomically


class Spent(NamedTuple):
    """What one job spent on a stage.

    Attributes:
        seconds: seconds of this job.
        share: share of the stage that this job computed, from 0 to 1; the rest was stored already.
        size: rows, or pairs, of the whole stage.
    """

    seconds: float
    share: float
    size: int


def update_costs(path: Path, spent: dict[str, Spent]) -> dict[str, float | None]:
    """Keep the seconds of the job that computed most of a stage, and scale them to the whole stage of this job.

    The jobs of a directory may have pools of different sizes: `--quick` takes few rows.

    Args:
        path: path of costs.json.
        spent: what this job spent, by stage.

    Returns:
        Seconds of each whole stage; None if no job of this directory computed any of it.
    """
    try:
        kept: dict[str, dict[str, Any]] = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        kept = {}
    costs: dict[str, float | None] = {}
    for stage, own in spent.items():
        before = kept.get(stage, {})
        # Earlier versions kept no size: nobody knows whether that job had few rows.
        if own.share * own.size > before.get("share", 0.0) * before.get("size", 0):
            kept[stage] = own._asdict()
        costs[stage] = _seconds_of(kept[stage], own.size) if stage in kept else None
    write_atomically(path, json.dumps(kept, indent=2).encode())
    return costs


def _seconds_of(kept: dict[str, Any], size: int) -> float:
    """Scale the seconds of one job to a whole stage of this size."""
    whole: float = kept["seconds"] / kept["share"]
    kept_size: int = kept.get("size", size)
    return whole * size / kept_size
