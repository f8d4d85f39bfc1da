"""Charts of a report as inline SVG, coloured by the page's style sheet.

All are drawn 360 wide, so that one drawing reads as well on a phone as in a column of a desktop page. Cells of one
colour are one path: a heat map of thousands of cells stays small.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from nuggets_trainer.report.tallies import round_step

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 14, 38
LEVELS = 4  # colours on each side of zero
MOST_STEPS = 6  # labels below a chart over the steps of training

Counts = Sequence[int]


@dataclass(frozen=True)
class Frame:
    """The plane of a chart: its axes, and where a value lies in the drawing."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x_label: str
    y_label: str
    height: int = HEIGHT

    def x(self, value: float) -> float:
        """Return the distance of a value from the left."""
        low, high = self.x_range
        return LEFT + (value - low) / ((high - low) or 1) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Return the distance of a value from the top."""
        low, high = self.y_range
        return self.height - BOTTOM - (value - low) / ((high - low) or 1) * (self.height - TOP - BOTTOM)

    def drawing(
        self, name: str, x_ticks: Mapping[float, str], y_ticks: Mapping[float, str], parts: Sequence[str]
    ) -> Markup:
        """Put the parts into the frame: behind them the grid, before them the axis and its labels.

        Args:
            name: what the chart shows, for those who cannot see it.
            x_ticks: labels of the x axis, by value.
            y_ticks: labels of the y axis, by value.
            parts: SVG elements of the chart itself.
        """
        bottom = self.height - BOTTOM
        grid = "".join(f"M{LEFT} {num(self.y(value))}H{WIDTH - RIGHT}" for value in y_ticks)
        elements = [f'<path class="grid" d="{grid}"/>', *parts]
        elements.append(f'<path class="axis" d="M{LEFT} {bottom}H{WIDTH - RIGHT}"/>')
        for value, label in x_ticks.items():
            elements.append(_text(self.x(value), bottom + 14, label, "middle"))
        for value, label in y_ticks.items():
            elements.append(_text(LEFT - 5, self.y(value) + 3.5, label, "end"))
        elements.append(_text((LEFT + WIDTH - RIGHT) / 2, self.height - 6, self.x_label, "middle", "label"))
        elements.append(
            f'<text class="label" text-anchor="middle" transform="translate(9 {num((TOP + bottom) / 2)}) rotate(-90)">'
            f"{escape(self.y_label)}</text>"
        )
        head = f'<svg viewBox="0 0 {WIDTH} {self.height}" role="img" aria-label="{escape(name)}">'
        return Markup(f"{head}{''.join(elements)}</svg>")


def num(value: float) -> str:
    """Write a coordinate in few characters."""
    return f"{value:.1f}".removesuffix(".0")


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{num(x)}" y="{num(y)}" text-anchor="{anchor}">{escape(text)}</text>'


def ticks(low: float, high: float, number: int = 5) -> dict[float, str]:
    """Return round numbers from `low` to `high`, each with the text to write."""
    step = round_step((high - low) / number)
    digits = max(0, -int(np.floor(np.log10(step) + 1e-9)))
    values = np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1) * step + 0.0  # no minus zero
    return {value: f"{value:.{digits}f}" if digits else compact(value) for value in values.tolist()}


def percent_ticks(low: float, high: float) -> dict[float, str]:
    """Return round shares from `low` to `high`, each with the text to write."""
    return {value: f"{value:.0%}" for value in ticks(low, high)}


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


def _power_ticks(low: float, high: float) -> dict[float, str]:
    """Ticks of a logarithmic axis from one logarithm to another."""
    powers = range(int(np.ceil(low)), int(np.floor(high)) + 1)
    return {float(power): compact(10.0**power) for power in powers}


def _bar_frame(edges: Sequence[float], layers: dict[str, Counts], x_label: str) -> Frame:
    """Make a frame that is as high as the highest stack of bars."""
    stacks = np.sum(list(layers.values()), axis=0)
    return Frame((edges[0], edges[-1]), (0, max(1, int(stacks.max()))), x_label, "rows")


def _bars(frame: Frame, edges: Sequence[float], layers: dict[str, Counts]) -> list[str]:
    """Draw stacked bars, one path for each layer."""
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


def score_histogram(scores: dict[str, Any], cut: dict[str, Any], ranked: dict[str, Any]) -> Markup:
    """Draw the values that rows are ranked by, with the cut and a band of one standard error."""
    frame, parts, x_ticks = _histogram(scores, ranked["name"] == "golden_score", f"{ranked['words']}{_unit(ranked)}")
    shown = f"{cut['score']:.{ranked['digits']}f}"
    return frame.drawing(
        f"Histogram of {ranked['words']}s. The last row kept has {shown}; {cut['num_kept']} rows are kept.",
        x_ticks,
        ticks(0, frame.y_range[1]),
        [_error_band(frame, cut), *parts, *_cut_mark(frame, cut["score"], shown)],
    )


def golden_score_histogram(scores: dict[str, Any]) -> Markup:
    """Draw the golden scores where rows are ranked by another value."""
    frame, parts, x_ticks = _histogram(scores, True, "golden score")
    name = "Histogram of golden scores, of kept and of rejected rows."
    return frame.drawing(name, x_ticks, ticks(0, frame.y_range[1]), parts)


def _histogram(scores: dict[str, Any], is_share: bool, x_label: str) -> tuple[Frame, list[str], dict[float, str]]:
    """Return the frame, the bars and the ticks of a histogram; those of a share end at 0 and 1."""
    edges = scores["edges"]
    layers = {"kept": scores["kept"], "rejected": scores["rejected"], "eliminated": scores["eliminated"]}
    frame = _bar_frame(edges, layers, x_label)
    possible = ticks(0, 1) if is_share else ticks(edges[0], edges[-1])
    x_ticks = {value: label for value, label in possible.items() if edges[0] <= value <= edges[-1]}
    return frame, _bars(frame, edges, layers), x_ticks


def _unit(ranked: dict[str, Any]) -> str:
    """Write a unit in brackets behind the name of a value; empty for a share."""
    return f" ({ranked['unit'].strip()})" if ranked["unit"] else ""


def _error_band(frame: Frame, cut: dict[str, Any]) -> str:
    """Draw one standard error to both sides of the cut, as far as the frame goes."""
    margin = cut["standard_error"] or 0.0  # None if a single anchor was scored
    around = np.clip([cut["score"] - margin, cut["score"] + margin], *frame.x_range)
    left, right = frame.x(around[0]), frame.x(around[1])
    height = HEIGHT - TOP - BOTTOM
    return f'<rect class="band" x="{num(left)}" y="{TOP}" width="{num(right - left)}" height="{height}"/>'


def _cut_mark(frame: Frame, score: float, shown: str) -> list[str]:
    """Draw a line at the cut, and its label on the side where there is more room."""
    anchor, offset = "start", 4
    if score > sum(frame.x_range) / 2:
        anchor, offset = "end", -4
    x = frame.x(min(max(score, frame.x_range[0]), frame.x_range[1]))
    line = f'<path class="cut" d="M{num(x)} {TOP - 4}V{HEIGHT - BOTTOM}"/>'
    return [line, _text(x + offset, TOP + 4, f"cut {shown}", anchor, "mark")]


def gain_histogram(gains: dict[str, Any]) -> Markup:
    """Draw the mean gains of the rows that have one."""
    edges = gains["edges"]
    layers = {"kept": gains["kept"], "rejected": gains["rejected"]}
    frame = _bar_frame(edges, layers, "mean gain (nats per token)")
    parts = _bars(frame, edges, layers)
    if edges[0] < 0 < edges[-1]:
        parts.append(f'<path class="axis" d="M{num(frame.x(0))} {TOP}V{HEIGHT - BOTTOM}"/>')
    name = "Histogram of mean gains, of kept and of rejected rows."
    return frame.drawing(name, ticks(edges[0], edges[-1]), ticks(0, frame.y_range[1]), parts)


def length_map(length: dict[str, Any], cut: dict[str, Any], ranked: dict[str, Any]) -> Markup:
    """Draw how many rows have a ranked value and a completion length: darker is more."""
    x_edges, y_edges = np.log10(length["x_edges"]), length["y_edges"]
    x_label, y_label = f"completion length ({length['unit']})", f"{ranked['words']}{_unit(ranked)}"
    frame = Frame((x_edges[0], x_edges[-1]), (y_edges[0], y_edges[-1]), x_label, y_label)
    counts = np.array(length["counts"])
    levels = np.ceil(2 * LEVELS * np.log1p(counts) / np.log1p(max(1, counts.max()))).astype(int)
    at_cut = min(max(cut["score"], y_edges[0]), y_edges[-1])
    cut_line = f'<path class="cut" d="M{LEFT} {num(frame.y(at_cut))}H{WIDTH - RIGHT}"/>'
    return frame.drawing(
        f"{ranked['title']} against completion length of {length['num_sampled']} rows.",
        _power_ticks(x_edges[0], x_edges[-1]),
        ticks(*frame.y_range),
        [*_cells(frame, x_edges, y_edges, levels, "c"), cut_line],
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
    """Draw the completion lengths of kept and of rejected rows, as shares of each."""
    edges = np.log10(length["x_edges"])
    shares = {"rejected": _shares(length["rejected"]), "kept": _shares(length["kept"])}
    top = float(max(shares["rejected"].max(), shares["kept"].max()))
    frame = Frame((edges[0], edges[-1]), (0, top), f"completion length ({length['unit']})", "share of rows")
    bottom, parts = num(frame.y(0)), []
    for kind, heights in shares.items():
        path = f"M{num(frame.x(edges[0]))} {bottom}"
        for height, edge in zip(heights, edges[1:], strict=True):
            path += f"V{num(frame.y(height))}H{num(frame.x(edge))}"
        parts.append(f'<path class="outline {kind}" d="{path}V{bottom}"/>')
    return frame.drawing(
        f"Completion lengths: median {length['median_kept']:.0f} {length['unit']} of kept rows.",
        _power_ticks(edges[0], edges[-1]),
        percent_ticks(0, top),
        parts,
    )


def _shares(counts: Counts) -> Any:
    return np.array(counts) / max(1, sum(counts))


def anchor_dots(anchors: Sequence[dict[str, Any]]) -> Markup:
    """Draw each anchor by how often it is won and by how well it agrees with the others."""
    shown = [anchor for anchor in anchors if anchor["won"] is not None]
    agreements = [anchor["discrimination"] or 0.0 for anchor in shown]
    y_range = (min(-0.2, *agreements, 0), max(0.6, *agreements, 0))
    frame = Frame((0, 1), y_range, "share of rows that win it", "agreement")
    parts = [f'<path class="axis" d="M{LEFT} {num(frame.y(0))}H{WIDTH - RIGHT}"/>']
    for anchor, agreement in zip(shown, agreements, strict=True):
        kind = "dot"
        if anchor["pairs_won"] in (0, anchor["pairs"]):
            kind = "useless"
        centre = f'cx="{num(frame.x(anchor["won"]))}" cy="{num(frame.y(agreement))}"'
        parts.append(f'<circle class="{kind}" {centre} r="3.5"><title>anchor {anchor["index"]}</title></circle>')
    name = f"{len(shown)} anchors by how often they are won and how well they agree with the others."
    return frame.drawing(name, percent_ticks(0, 1), ticks(*y_range), parts)


def heat_map(heat: dict[str, Any]) -> Markup:
    """Draw the gain of each sampled row on each sampled anchor: best row on top, the anchor won most on the left."""
    gains = np.array(heat["gains"], dtype=float)  # None becomes NaN
    rows, columns = gains.shape
    sizes = np.clip(np.ceil(np.abs(gains) / heat["scale"] * LEVELS), 1, LEVELS)
    # A gain of exactly 0 is not a win: it never gets a colour of gain.
    gain_levels = np.where(gains > 0, sizes, 0).astype(int)
    loss_levels = np.where(gains <= 0, sizes, 0).astype(int)
    frame = Frame((-2, columns), (rows, 0), "anchors, from won most to won least", "rows, best first", 300)
    x_edges, y_edges = np.arange(columns + 1), np.arange(rows + 1)
    kept = np.array(heat["selected"], dtype=int)[:, None]
    parts = _cells(frame, np.array([-2, -0.7]), y_edges, kept, "kept k")
    parts += _cells(frame, x_edges, y_edges, gain_levels, "g")
    parts += _cells(frame, x_edges, y_edges, loss_levels, "l")
    return frame.drawing(f"Heat map of the gains of {rows} rows on {columns} anchors.", {}, {}, parts)


def reselection_lines(entries: Sequence[dict[str, Any]], with_cuts: bool) -> Markup:
    """Draw over the steps of training what is left of the first golden set, and the lowest golden score kept.

    Args:
        entries: one dict per golden set, in the order of the steps.
        with_cuts: whether the cuts are golden scores: only these are shares, as the other line.
    """
    frame = Frame((0, max(entry["step"] for entry in entries)), (0, 1), "optimizer step", "share")
    left_of_first = [(entry["step"], entry["kept_of_first"] / entry["num_kept"]) for entry in entries]
    parts = _dotted_line(frame, left_of_first, "kept")
    if with_cuts:
        parts += _dotted_line(frame, [(entry["step"], entry["cut"]) for entry in entries], "rejected")
    x_ticks = {}
    for entry in entries[:: -(-len(entries) // MOST_STEPS)]:
        x_ticks[float(entry["step"])] = str(entry["step"])
    return frame.drawing("What is left of the first golden set over the steps.", x_ticks, ticks(0, 1), parts)


def _dotted_line(frame: Frame, points: Sequence[tuple[float, float]], kind: str) -> list[str]:
    """Draw a line through points, and a dot on each."""
    path, dots = [], []
    for x_value, y_value in points:
        x, y = num(frame.x(x_value)), num(frame.y(y_value))
        path.append(f"{x} {y}")
        dots.append(f'<circle class="{kind}" cx="{x}" cy="{y}" r="3"/>')
    return [f'<path class="outline {kind}" d="M{"L".join(path)}"/>', *dots]
