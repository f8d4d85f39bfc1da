"""Charts of a report as inline SVG, coloured by the page's style sheet. Knows no files.

All are drawn 360 wide, so that one drawing reads as well on a phone as in a column of a desktop page. Cells of one
colour are one path: a heat map of thousands of cells stays small.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from nuggets_trainer.report.tallies import round_step

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 14, 38
LEVELS = 4  # colours on each side of zero


@dataclass(frozen=True)
class Frame:
    """The plane of a chart: its axes, and where a value lies in the drawing."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x_label: str
    y_label: str
    height: int = HEIGHT

    def x(self, value: float) -> float:
        """Where a value lies from the left."""
        low, high = self.x_range
        return LEFT + (value - low) / ((high - low) or 1) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Where a value lies from the top."""
        low, high = self.y_range
        return self.height - BOTTOM - (value - low) / ((high - low) or 1) * (self.height - TOP - BOTTOM)

    def drawing(self, name: str, x_ticks: dict[float, str], y_ticks: dict[float, str], *parts: str) -> Markup:
        """Put the parts into the frame; `name` says to those who cannot see it what the chart shows."""
        bottom = self.height - BOTTOM
        axes = [
            f'<path class="grid" d="{"".join(f"M{LEFT} {num(self.y(t))}H{WIDTH - RIGHT}" for t in y_ticks)}"/>',
            f'<path class="axis" d="M{LEFT} {bottom}H{WIDTH - RIGHT}"/>',
            *(_text(self.x(t), bottom + 14, label, "middle") for t, label in x_ticks.items()),
            *(_text(LEFT - 5, self.y(t) + 3.5, label, "end") for t, label in y_ticks.items()),
            _text((LEFT + WIDTH - RIGHT) / 2, self.height - 6, self.x_label, "middle", "label"),
            f'<text class="label" text-anchor="middle" transform="translate(9 {num((TOP + bottom) / 2)}) rotate(-90)">'
            f"{escape(self.y_label)}</text>",
        ]
        return _svg(name, self.height, [axes[0], *parts, *axes[1:]])


def num(value: float) -> str:
    """Write a coordinate in few characters."""
    return f"{value:.1f}".removesuffix(".0")


def _svg(name: str, height: int, parts: Sequence[str]) -> Markup:
    return Markup(f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(name)}">{"".join(parts)}</svg>')


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{num(x)}" y="{num(y)}" text-anchor="{anchor}">{escape(text)}</text>'


def ticks(low: float, high: float, number: int = 5) -> dict[float, str]:
    """Round numbers from `low` to `high`, with how to write them."""
    step = round_step((high - low) / number)
    digits = max(0, -int(np.floor(np.log10(step) + 1e-9)))
    values = np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1) * step + 0.0  # no minus zero
    return {float(v): compact(float(v)) if digits == 0 else f"{v:.{digits}f}" for v in values}


def compact(value: float) -> str:
    """Write a count in few characters.

    Example:
        >>> compact(950), compact(1500), compact(2_000_000)
        ('950', '1.5k', '2M')
    """
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"


def _powers(low: float, high: float) -> dict[float, str]:
    """Ticks of a logarithmic axis, at the logarithms."""
    return {float(p): compact(10.0**p) for p in range(int(np.ceil(low)), int(np.floor(high)) + 1)}


def _bars(frame: Frame, edges: Sequence[float], layers: dict[str, Sequence[int]]) -> list[str]:
    """Stacked bars, one path for each layer."""
    base, parts = [0] * (len(edges) - 1), []
    for kind, counts in layers.items():
        path = ""
        for i, count in enumerate(counts):
            if count:
                left, right = frame.x(edges[i]) + 0.5, max(frame.x(edges[i + 1]) - 0.5, frame.x(edges[i]) + 1)
                top, bottom = frame.y(base[i] + count), frame.y(base[i])
                path += f"M{num(left)} {num(bottom)}V{num(min(top, bottom - 0.8))}H{num(right)}V{num(bottom)}z"
                base[i] += count
        parts.append(f'<path class="{kind}" d="{path}"/>')
    return parts


def score_histogram(scores: dict[str, Any], cut: dict[str, Any]) -> Markup:
    """Golden scores of all rows, with the cut and its standard error."""
    edges = scores["edges"]
    layers = {kind: scores[kind] for kind in ("kept", "rejected", "eliminated")}
    top = max(1, *(sum(counts) for counts in zip(*layers.values(), strict=True)))
    frame = Frame((edges[0], edges[-1]), (0, top), "golden score", "rows")
    low, high = (
        frame.x(min(max(cut["score"] + sign * cut["standard_error"], edges[0]), edges[-1])) for sign in (-1, 1)
    )
    band = f'<rect class="band" x="{num(low)}" y="{TOP}" width="{num(high - low)}" height="{HEIGHT - TOP - BOTTOM}"/>'
    at = num(frame.x(cut["score"]))
    side = "end" if cut["score"] > (edges[0] + edges[-1]) / 2 else "start"
    offset = -4 if side == "end" else 4
    return frame.drawing(
        f"Histogram of golden scores. The last row kept has {cut['score']:.2f}; {cut['num_kept']} rows are kept.",
        {t: label for t, label in ticks(0, 1).items() if edges[0] <= t <= edges[-1]},
        ticks(0, top),
        band,
        *_bars(frame, edges, layers),
        f'<path class="cut" d="M{at} {TOP - 4}V{HEIGHT - BOTTOM}"/>',
        _text(frame.x(cut["score"]) + offset, TOP + 4, f"cut {cut['score']:.2f}", side, "mark"),
    )


def gain_histogram(gains: dict[str, Any]) -> Markup:
    """Mean gains of the rows that have one."""
    edges = gains["edges"]
    layers = {kind: gains[kind] for kind in ("kept", "rejected")}
    top = max(1, *(sum(counts) for counts in zip(*layers.values(), strict=True)))
    frame = Frame((edges[0], edges[-1]), (0, top), "mean gain (nats per token)", "rows")
    zero = f'<path class="axis" d="M{num(frame.x(0))} {TOP}V{HEIGHT - BOTTOM}"/>'
    return frame.drawing(
        "Histogram of mean gains, of kept and of rejected rows.",
        ticks(edges[0], edges[-1]),
        ticks(0, top),
        *_bars(frame, edges, layers),
        zero if edges[0] < 0 < edges[-1] else "",
    )


def length_map(length: dict[str, Any], cut: dict[str, Any]) -> Markup:
    """How many rows have this score and this completion length: darker is more."""
    x_edges, y_edges = np.log10(length["x_edges"]), length["y_edges"]
    frame = Frame((x_edges[0], x_edges[-1]), (0, 1), f"completion length ({length['unit']})", "golden score")
    counts = np.array(length["counts"])
    strength = np.ceil(2 * LEVELS * np.log1p(counts) / np.log1p(max(1, counts.max()))).astype(int)
    at = num(frame.y(cut["score"]))
    return frame.drawing(
        f"Golden score against completion length of {length['num_sampled']} rows.",
        _powers(x_edges[0], x_edges[-1]),
        ticks(0, 1),
        *_cells(frame, x_edges, y_edges, strength, "c"),
        f'<path class="cut" d="M{LEFT} {at}H{WIDTH - RIGHT}"/>',
    )


def _cells(frame: Frame, x_edges: Any, y_edges: Any, levels: Any, kind: str) -> list[str]:
    """Fill cells `[y][x]`: one path for each level but 0; neighbours of one level in a row are one rectangle."""
    paths: dict[int, str] = {}
    for row, (low, high) in zip(levels, itertools.pairwise(y_edges), strict=True):
        top, bottom = sorted((frame.y(low), frame.y(high)))
        starts = [0, *(np.flatnonzero(np.diff(row)) + 1).tolist(), len(row)]
        for start, end in itertools.pairwise(starts):
            level = int(row[start])
            if level:
                left, right = num(frame.x(x_edges[start])), num(frame.x(x_edges[end]))
                paths[level] = paths.get(level, "") + f"M{left} {num(top)}H{right}V{num(bottom)}H{left}z"
    return [f'<path class="{kind}{level}" d="{path}"/>' for level, path in sorted(paths.items())]


def length_outlines(length: dict[str, Any]) -> Markup:
    """Completion lengths of kept and of rejected rows, as shares of each."""
    edges = np.log10(length["x_edges"])
    shares = {kind: np.array(length[kind]) / max(1, sum(length[kind])) for kind in ("rejected", "kept")}
    top = float(max(share.max() for share in shares.values()))
    frame = Frame((edges[0], edges[-1]), (0, top), f"completion length ({length['unit']})", "share of rows")
    parts = []
    for kind, share in shares.items():
        steps = "".join(f"V{num(frame.y(s))}H{num(frame.x(edge))}" for s, edge in zip(share, edges[1:], strict=True))
        bottom = num(frame.y(0))
        parts.append(f'<path class="outline {kind}" d="M{num(frame.x(edges[0]))} {bottom}{steps}V{bottom}"/>')
    y_ticks = {t: f"{t:.0%}" for t in ticks(0, top)}
    return frame.drawing(
        f"Completion lengths: median {length['median_kept']:.0f} {length['unit']} of kept rows.",
        _powers(edges[0], edges[-1]),
        y_ticks,
        *parts,
    )


def anchor_dots(anchors: Sequence[dict[str, Any]]) -> Markup:
    """Each anchor by how often it is won and by how well it agrees with the others."""
    shown = [a for a in anchors if a["won"] is not None]
    values = [a["discrimination"] or 0.0 for a in shown]
    frame = Frame((0, 1), (min(-0.2, *values, 0), max(0.6, *values, 0)), "share of rows that win it", "agreement")
    dots = [
        f'<circle class="{"useless" if a["pairs_won"] in (0, a["pairs"]) else "dot"}" cx="{num(frame.x(a["won"]))}" '
        f'cy="{num(frame.y(a["discrimination"] or 0.0))}" r="3.5"><title>anchor {a["index"]}</title></circle>'
        for a in shown
    ]
    zero = f'<path class="axis" d="M{LEFT} {num(frame.y(0))}H{WIDTH - RIGHT}"/>'
    return frame.drawing(
        f"{len(shown)} anchors by how often they are won and how well they agree with the others.",
        {t: f"{t:.0%}" for t in ticks(0, 1)},
        ticks(*frame.y_range),
        zero,
        *dots,
    )


def heat_map(heat: dict[str, Any]) -> Markup:
    """Gain of each sampled row on each sampled anchor: best row at the top, the anchor won most on the left."""
    gains = np.array([[np.nan if g is None else g for g in row] for row in heat["gains"]], dtype=float)
    size = np.clip(np.ceil(np.abs(gains) / heat["scale"] * LEVELS), 1, LEVELS)
    # Never a colour of gain for a gain of exactly 0, which is no win.
    levels = np.where(np.isnan(gains), 0, np.where(gains > 0, size, -size)).astype(int)
    rows, columns = levels.shape
    frame = Frame((-2, columns), (rows, 0), "anchors, from won most to won least", "rows, best first", 300)
    kept = np.array([[int(selected)] for selected in heat["selected"]])
    edges = np.arange(rows + 1)
    parts = _cells(frame, np.array([-2, -0.7]), edges, kept, "kept k")
    for kind, part in (("g", np.maximum(levels, 0)), ("l", np.maximum(-levels, 0))):
        parts += _cells(frame, np.arange(columns + 1), edges, part, kind)
    return frame.drawing(f"Heat map of the gains of {rows} rows on {columns} anchors.", {}, {}, *parts)


def reselection_lines(entries: Sequence[dict[str, Any]]) -> Markup:
    """Over the steps of training: what is left of the first golden set, and the lowest golden score kept."""
    steps = [entry["step"] for entry in entries]
    frame = Frame((0, max(steps)), (0, 1), "optimizer step", "share")
    lines = {
        "kept": [entry["kept_of_first"] / entry["num_kept"] for entry in entries],
        "rejected": [entry["cut"] for entry in entries],
    }
    parts = []
    for kind, values in lines.items():
        points = [(num(frame.x(step)), num(frame.y(value))) for step, value in zip(steps, values, strict=True)]
        parts.append(f'<path class="outline {kind}" d="M{"L".join(f"{x} {y}" for x, y in points)}"/>')
        parts += [f'<circle class="{kind}" cx="{x}" cy="{y}" r="3"/>' for x, y in points]
    x_ticks = {float(step): str(step) for step in steps[:: -(-len(steps) // 6)]}
    return frame.drawing("What is left of the first golden set over the steps.", x_ticks, ticks(0, 1), *parts)
