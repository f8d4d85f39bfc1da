"""The plot of a comparison: one line of points for each arm, best on top, one colour for each size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nuggets_trainer.comparison.table import TableLine

COLOURS = ("#1f77b4", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#666666")  # of sizes, the smallest first
BARS = "bars: 95% against random rows"
MARKERS = ("o", "s", "^", "D", "v", "P")  # not everybody can tell the colours apart


def draw_losses(
    lines: Sequence[TableLine], path: Path, unit: str = "held-out loss, nats per completion token"
) -> None:
    """Draw the loss of each arm; the ending of the path chooses SVG, PNG or PDF.

    The bars are 95% intervals of the difference from random rows of the same number, which is paired: the loss alone
    varies far more from one held-out row to the next. They are intervals of the loss without random rows, and on a
    logarithmic axis. Arms stand below each other, because their names then have space on a telephone too.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "nuggets"  # the same numbers give the same file
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    sizes = sorted({line.fraction for line in lines if line.fraction})
    by_arm = _by_arm(lines)
    logarithmic = _differ_tenfold(lines)
    paired = not logarithmic and any(line.minus_random for line in lines)
    row_height = 0.3 + 0.07 * max(0, len(sizes) - 1)
    figure, axes = pyplot.subplots(figsize=(5.2, 1.7 + row_height * max(1, len(by_arm))), layout="constrained")
    for number, size in enumerate(sizes):
        shift = 0.7 * ((number + 0.5) / len(sizes) - 0.5)
        _draw_size(axes, by_arm, size, number, shift, paired)
    for line in lines:
        if line.fraction is None:
            style = ":" if line.arm == "base" else "--"
            axes.axvline(line.loss, color="black", linestyle=style, linewidth=1, label=line.label, zorder=1)
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(by_arm)), [own[0].label for own in by_arm])
    for label, own in zip(axes.get_yticklabels(), by_arm, strict=True):
        if own[0].arm == "golden":
            label.set_fontweight("bold")
    axes.set_ylim(max(len(by_arm), 1) - 0.4, -0.6)  # the best arm on top
    axes.yaxis.grid(True, color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"{unit}\n{BARS}" if paired else unit)
    figure.legend(fontsize=9, loc="outside lower center", ncols=2, frameon=False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=120)
    pyplot.close(figure)


def _by_arm(lines: Sequence[TableLine]) -> list[list[TableLine]]:
    """Return the lines of each arm with a size; the arm with the lowest loss at its largest size comes first."""
    by_arm: dict[str, list[TableLine]] = {}
    for line in sorted(lines, key=lambda line: line.fraction or 0):
        if line.fraction is not None:
            by_arm.setdefault(line.arm, []).append(line)
    return sorted(by_arm.values(), key=lambda own: own[-1].loss)


def _draw_size(
    axes: Any, by_arm: Sequence[Sequence[TableLine]], size: float, number: int, shift: float, paired: bool
) -> None:
    """Draw the points of one size, with error bars where there are intervals."""
    places, losses, intervals = [], [], []
    for place, own in enumerate(by_arm):
        for line in own:
            if line.fraction == size:
                places.append(place + shift)
                losses.append(line.loss)
                intervals.append(_bar(line, paired))
    axes.errorbar(
        losses,
        places,
        xerr=np.abs(np.array(intervals).T - np.array(losses)),
        label=f"{100 * size:g}% of the pool",
        color=COLOURS[number % len(COLOURS)],
        marker=MARKERS[number % len(MARKERS)],
        markersize=4,
        capsize=2,
        linestyle="none",
        linewidth=1.2,
        zorder=3,
    )


def _bar(line: TableLine, paired: bool) -> tuple[float, float]:
    """Return the ends of the bar of a point; both are the loss where there is none."""
    if not paired:
        return line.interval or (line.loss, line.loss)
    if line.minus_random is None:  # random rows themselves
        return line.loss, line.loss
    value, low, high = line.minus_random
    if low is None or high is None:
        return line.loss, line.loss
    return line.loss + low - value, line.loss + high - value


def _differ_tenfold(lines: Sequence[TableLine]) -> bool:
    """Tell whether the axis has to be logarithmic; below a factor of ten it would have hardly a number on it."""
    losses = [line.loss for line in lines]
    return min(losses) > 0 and max(losses) / min(losses) >= 10
