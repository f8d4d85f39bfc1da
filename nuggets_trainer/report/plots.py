"""Figures -> PNG images for papers, by matplotlib (the extra `plot`). Knows no files."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np

GOLD, SLATE, MIST = "#b98312", "#8d97a8", "#d6d2ca"
DPI = 200


def draw_plots(figures: dict[str, Any]) -> dict[str, bytes]:
    """Draw the charts of a report.

    Args:
        figures: from `read_figures`.

    Returns:
        Name and content of each PNG.

    Raises:
        ImportError: if matplotlib is not installed, with what to do.
    """
    try:
        from matplotlib.figure import Figure  # not pyplot: no global state, no window system
    except ImportError as error:
        raise ImportError("Plots need matplotlib: `pip install nuggets_trainer[plot]`.") from error

    drawings: dict[str, Callable[[Any, dict[str, Any]], None]] = {
        "golden_score.png": _golden_score,
        "mean_gain.png": _mean_gain,
        "length.png": _length,
        "anchors.png": _anchors,
        "heat_map.png": _heat_map,
    }
    images = {}
    for name, draw in drawings.items():
        figure = Figure(figsize=(4.2, 3), layout="constrained")
        draw(figure.add_subplot(), figures)
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=DPI)
        images[name] = image.getvalue()
    return images


def _bars(axes: Any, edges: list[float], layers: dict[str, tuple[list[int], str]]) -> None:
    base = np.zeros(len(edges) - 1)
    for label, (counts, colour) in layers.items():
        if sum(counts):
            axes.bar(edges[:-1], counts, np.diff(edges), base, align="edge", color=colour, label=label)
            base += counts
    axes.set_ylabel("rows")
    axes.legend(frameon=False, fontsize="small")


def _golden_score(axes: Any, figures: dict[str, Any]) -> None:
    scores, cut = figures["scores"], figures["cut"]
    colours = {"kept": GOLD, "rejected": SLATE, "eliminated": MIST}
    labels = {"kept": "kept", "rejected": "rejected", "eliminated": "eliminated (at most)"}
    _bars(axes, scores["edges"], {labels[kind]: (scores[kind], colour) for kind, colour in colours.items()})
    axes.axvline(cut["score"], color="black", linestyle="--", linewidth=1)
    axes.set_xlabel(f"golden score ({cut['num_kept']:,} of {cut['num_candidates']:,} kept, cut {cut['score']:.2f})")


def _mean_gain(axes: Any, figures: dict[str, Any]) -> None:
    gains = figures["gains"]
    _bars(axes, gains["edges"], {"kept": (gains["kept"], GOLD), "rejected": (gains["rejected"], SLATE)})
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("mean gain (nats per token)")


def _length(axes: Any, figures: dict[str, Any]) -> None:
    length = figures["length"]
    counts = np.ma.masked_equal(np.array(length["counts"]), 0)
    mesh = axes.pcolormesh(length["x_edges"], length["y_edges"], counts, cmap="Greys", norm="log")
    axes.figure.colorbar(mesh, label="rows")
    axes.axhline(figures["cut"]["score"], color=GOLD, linestyle="--", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel(f"completion length ({length['unit']})")
    axes.set_ylabel("golden score")


def _anchors(axes: Any, figures: dict[str, Any]) -> None:
    shown = [a for a in figures["anchors"] if a["won"] is not None]
    axes.scatter([a["won"] for a in shown], [a["discrimination"] or 0 for a in shown], s=14, color=GOLD)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("share of rows that win the anchor")
    axes.set_ylabel("agreement with the other anchors")


def _heat_map(axes: Any, figures: dict[str, Any]) -> None:
    heat = figures["heat_map"]
    gains = np.array([[np.nan if g is None else g for g in row] for row in heat["gains"]], dtype=float)
    size = heat["scale"]
    image = axes.imshow(gains, cmap="PuOr_r", vmin=-size, vmax=size, aspect="auto", interpolation="nearest")
    axes.figure.colorbar(image, label="gain (nats per token)")
    axes.set_xlabel("anchors, from won most to won least")
    axes.set_ylabel("rows, best first")
