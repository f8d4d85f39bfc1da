"""What each arm costs: time of choosing its rows, time of one run, and the first as a share of tuning on all rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nuggets_trainer.comparison.table import ArmResult, padded_table


@dataclass(frozen=True)
class ArmCost:
    """Time that one arm takes; seconds are wall time.

    Attributes:
        arm: name of the arm.
        label: name of the arm for people.
        choosing_seconds: time of computing what the choice needs; None if it was not measured.
        training_seconds: time of one run, mean over sizes and seeds.
        device_seconds: time of both, times the number of devices; None if choosing was not measured.
        selection_to_training: time of choosing divided by the time of tuning on all rows (STR); None if either is not
            known.
    """

    arm: str
    label: str
    choosing_seconds: float | None
    training_seconds: float
    device_seconds: float | None
    selection_to_training: float | None


def arm_costs(results: Sequence[ArmResult], full_steps: int, num_devices: int) -> list[ArmCost]:
    """Sum up what each arm costs; the base model, which is not tuned, is left out.

    Args:
        results: results of all arms.
        full_steps: number of optimizer steps of tuning on all rows.
        num_devices: number of devices.
    """
    all_rows = _seconds_on_all_rows(results, full_steps)
    by_arm: dict[str, list[ArmResult]] = {}
    for result in results:
        if result.steps > 0:
            by_arm.setdefault(result.arm, []).append(result)
    costs = []
    for arm, own in by_arm.items():
        choosing = own[0].choosing_seconds
        training = float(np.mean([result.training_seconds for result in own]))
        device_seconds = share = None
        if choosing is not None:
            device_seconds = (choosing + training) * num_devices
        if choosing is not None and all_rows:
            share = choosing / all_rows
        costs.append(ArmCost(arm, own[0].label, choosing, training, device_seconds, share))
    return costs


def _seconds_on_all_rows(results: Sequence[ArmResult], full_steps: int) -> float:
    """Return the time of the arm `full`, or estimate it by the time per step of the other arms; 0 if none was run."""
    per_step = []
    for result in results:
        if result.arm == "full":
            return result.training_seconds
        if result.steps > 0:
            per_step.append(result.training_seconds / result.steps)
    if not per_step:
        return 0.0
    return full_steps * float(np.mean(per_step))


def costs_to_markdown(costs: Sequence[ArmCost]) -> str:
    """Write the table of the costs."""
    rows = []
    for cost in costs:
        rows.append(
            {
                "tuned on": cost.label,
                "choosing, s": _known(cost.choosing_seconds, ".0f"),
                "one run, s": _known(cost.training_seconds, ".0f"),
                "device s": _known(cost.device_seconds, ".0f"),
                "STR": _known(cost.selection_to_training, ".2g"),
            }
        )
    return padded_table(rows)


def _known(value: float | None, form: str) -> str:
    """Write a number; a question mark if it was not measured."""
    if value is None:
        return "?"
    return f"{value:{form}}"
