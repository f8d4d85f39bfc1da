"""The plot of a comparison: loss against the share of the pool, one curve for each arm; for one share, points."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
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

    # Narrow, with the legend below: on a telephone its letters are still seven pixels high.
    figure, axes = pyplot.subplots(figsize=(6.4, 5.6), layout="constrained")
    fractions = sorted({line.fraction for line in lines if line.fraction})
    if len(fractions) > 1:
        _draw_curves(axes, lines, fractions)
    else:
        _draw_points(axes, lines, fractions)
    for line in lines:
        if line.arm == "base":
            axes.axhline(line.loss, color="black", linestyle=":", linewidth=1, label=LABELS["base"])
    for line in lines:
        if line.arm == "full":
            axes.axhline(line.loss, color="black", linestyle="--", linewidth=1, label=LABELS["full"])
    _scale_losses(axes, lines)
    axes.set_ylabel(unit)
    figure.legend(fontsize=9, loc="outside lower center", ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=120)
    pyplot.close(figure)


def _draw_curves(axes: Any, lines: Sequence[TableLine], fractions: Sequence[float]) -> None:
    """Draw one curve for each arm that depends on the fraction, in the order of `LABELS`."""
    arms = _drawn_arms(lines)
    # The arms share a quarter of the way to the next fraction, so that their error bars stand apart.
    nearest = min(larger / smaller for smaller, larger in pairwise(fractions))
    step = min(1.03, nearest ** (0.25 / len(arms)))
    for number, arm in enumerate(arms):
        own = sorted((line for line in lines if line.arm == arm), key=lambda line: line.fraction or 0)
        shift = step ** (number - (len(arms) - 1) / 2)
        percents = np.array([100 * (line.fraction or 0) for line in own])
        _draw_losses_of(axes, percents * shift, own, arm, number, "-")
    percents = 100 * np.array(fractions)
    axes.set_xscale("log")
    axes.set_xticks(percents, [f"{percent:g}%" for percent in percents])
    axes.xaxis.minorticks_off()
    axes.set_xlim(percents[0] / nearest**0.4, percents[-1] * nearest**0.4)
    axes.set_xlabel("share of the pool that is tuned on")


def _draw_points(axes: Any, lines: Sequence[TableLine], fractions: Sequence[float]) -> None:
    """Draw one point for each arm that depends on the fraction, of which there is one or none."""
    arms = _drawn_arms(lines)
    for number, arm in enumerate(arms):
        own = [line for line in lines if line.arm == arm]
        _draw_losses_of(axes, np.array([number]), own, arm, number, "none")
    axes.set_xticks(range(len(arms)), [LABELS[arm] for arm in arms], rotation=30, ha="right")
    axes.set_xlim(-0.6, max(len(arms), 1) - 0.4)
    if fractions:
        axes.set_xlabel(f"{100 * fractions[0]:g}% of the pool, chosen as")


def _draw_losses_of(axes: Any, x: Any, own: Sequence[TableLine], arm: str, number: int, linestyle: str) -> None:
    """Draw the losses of one arm, with error bars where there are intervals."""
    losses = np.array([line.loss for line in own])
    intervals = np.array([line.interval or (line.loss, line.loss) for line in own])
    axes.errorbar(
        x,
        losses,
        yerr=np.abs(intervals.T - losses),
        label=LABELS[arm] if linestyle != "none" else None,
        marker="o",
        markersize=4,
        capsize=2,
        linestyle=linestyle,
        linewidth=2.5 if arm == "golden" else 1.2,
        zorder=10 - number,
    )


def _drawn_arms(lines: Sequence[TableLine]) -> list[str]:
    """Return the arms that depend on the fraction, in the order of `LABELS`."""
    present = {line.arm for line in lines if line.fraction}
    return [arm for arm in LABELS if arm in present]


def _scale_losses(axes: Any, lines: Sequence[TableLine]) -> None:
    """Take a logarithmic axis if the losses differ tenfold; below that it would have hardly a number on it."""
    losses = [line.loss for line in lines]
    if min(losses) > 0 and max(losses) / min(losses) >= 10:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
