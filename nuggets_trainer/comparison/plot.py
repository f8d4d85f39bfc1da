"""The plot of a comparison: loss against the share of the pool, one curve for each arm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nuggets_trainer.comparison.arms import LABELS
from nuggets_trainer.comparison.table import TableLine


def draw_losses(
    lines: Sequence[TableLine], path: Path, unit: str = "held-out loss, nats per completion token"
) -> None:
    """Draw the loss of each arm with its 95% intervals; the ending of the path chooses SVG, PNG or PDF.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "nuggets"  # the same numbers give the same file
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    _draw_curves(axes, lines)
    for line in lines:
        if line.arm == "base":
            axes.axhline(line.loss, color="black", linestyle=":", linewidth=1, label=LABELS["base"])
    for line in lines:
        if line.arm == "full":
            axes.axhline(line.loss, color="black", linestyle="--", linewidth=1, label=LABELS["full"])
    _label_axes(axes, lines, unit)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=120)
    pyplot.close(figure)


def _draw_curves(axes: Any, lines: Sequence[TableLine]) -> None:
    """Draw one curve for each arm that depends on the fraction, in the order of `LABELS`."""
    number = 0
    for arm in LABELS:
        own = [line for line in lines if line.arm == arm and line.fraction]
        if not own:
            continue
        shift = 1.03 ** (number - 3)  # moves the error bars of the arms apart
        percents, losses, intervals = [], [], []
        for line in own:
            percents.append(100 * (line.fraction or 0))
            losses.append(line.loss)
            intervals.append(line.interval)
        y = np.array(losses)
        axes.errorbar(
            np.array(percents) * shift,
            y,
            yerr=np.abs(np.array(intervals).T - y),
            label=LABELS[arm],
            marker="o",
            markersize=4,
            capsize=2,
            linewidth=2.5 if arm == "golden" else 1.2,
            zorder=10 - number,
        )
        number += 1


def _label_axes(axes: Any, lines: Sequence[TableLine], unit: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    percents = sorted({100 * line.fraction for line in lines if line.fraction})
    axes.set_xticks(percents, [f"{percent:g}%" for percent in percents])
    axes.minorticks_off()
    axes.set_xlabel("share of the pool that is tuned on")
    axes.set_ylabel(unit)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
