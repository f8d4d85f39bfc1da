"""From the losses of all runs to one table (JSON, Markdown) and one plot, with intervals. Knows no model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from compare_arms import LABELS

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class Measured:
    """What the runs of one arm at one fraction gave.

    Attributes:
        arm: a key of `LABELS`.
        fraction: of the pool; None for arms that do not depend on it.
        num_rows: rows tuned on, of each seed the same number.
        golden_share: how many of them are in the golden set of that fraction, mean over seeds.
        losses: of the held-out rows, `(seeds, h)`, nats per completion token.
        choosing_seconds: wall time of computing what the choice needs; 0 for arms that need nothing, None where that
            was not measured (scores of another job).
        training_seconds: wall time of one run, mean over seeds.
        steps: optimizer steps.
        generation: the metric, one value per seed; None without one.
    """

    arm: str
    fraction: float | None
    num_rows: int
    golden_share: float | None
    losses: Floats
    choosing_seconds: float | None
    training_seconds: float
    steps: int
    generation: list[float] | None = None


class Bootstrap:
    """Resampled means of losses, the same draws for all arms, so that differences are paired.

    Hierarchical: each resample draws seeds with replacement, and held-out rows with replacement; a mean weighs rows
    by their completion tokens. Run s of two arms has the same seed, so it is drawn for both. With few seeds such
    intervals are somewhat too narrow in what comes from seeds (by sqrt(1 - 1/seeds)).

    Args:
        num_tokens: completion tokens of the held-out rows, `(h,)`.
        num_seeds: runs of each arm.
        num_resamples: draws.
        seed: of the draws.
    """

    def __init__(self, num_tokens: npt.NDArray[np.int64], num_seeds: int, num_resamples: int, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        h = len(num_tokens)
        rows = generator.multinomial(h, np.full(h, 1 / h), size=num_resamples) * num_tokens
        self._tokens = num_tokens / num_tokens.sum()
        self._rows = rows / rows.sum(axis=1, keepdims=True)
        self._seeds = generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=num_resamples)
        self._num_seeds = num_seeds

    def mean(self, losses: Floats) -> Floats:
        """Loss per completion token of each seed, `(seeds,)`."""
        means: Floats = losses @ self._tokens
        return means

    def resampled(self, losses: Floats) -> Floats:
        """Mean over seeds in each resample, `(resamples,)`."""
        assert losses.shape[0] == self._num_seeds, (losses.shape, self._num_seeds)
        means: Floats = ((losses @ self._rows.T) * self._seeds.T).sum(axis=0) / self._num_seeds
        return means

    def difference(self, a: Floats, b: Floats) -> tuple[float, float, float]:
        """Mean of `a` minus `b`, and its 95% percentile interval."""
        low, high = np.quantile(self.resampled(a) - self.resampled(b), [0.025, 0.975])
        return float(self.mean(a).mean() - self.mean(b).mean()), float(low), float(high)

    def interval(self, losses: Floats) -> Interval:
        """95% percentile interval of the mean."""
        low, high = np.quantile(self.resampled(losses), [0.025, 0.975])
        return float(low), float(high)


@dataclass(frozen=True)
class Line:
    """One line of the table; losses in nats per completion token, intervals 95%.

    `minus_random` and `minus_full` are differences of the mean loss to random rows of the same number and to the full
    pool, each with its interval: below zero the arm is better. `seed_deviation` is the standard deviation over seeds.
    Device seconds are wall seconds times devices.
    """

    arm: str
    fraction: float | None
    num_rows: int
    golden_share: float | None
    steps: int
    num_seeds: int
    loss: float
    seed_deviation: float
    interval: Interval
    minus_random: tuple[float, float, float] | None
    minus_full: tuple[float, float, float] | None
    choosing_seconds: float | None
    training_seconds: float
    device_seconds: float | None
    generation: float | None


def make_lines(measured: Sequence[Measured], bootstrap: Bootstrap, num_devices: int) -> list[Line]:
    """Hold every arm against random rows of its fraction, and against the full pool, where these were run."""
    random = {m.fraction: m.losses for m in measured if m.arm == "random"}
    full = next((m.losses for m in measured if m.arm == "full"), None)
    lines = []
    for m in measured:
        means = bootstrap.mean(m.losses)
        same_size = None if m.arm == "random" else random.get(m.fraction)
        everything = None if m.arm == "full" else full
        total = None if m.choosing_seconds is None else m.choosing_seconds + m.training_seconds
        lines.append(
            Line(
                arm=m.arm,
                fraction=m.fraction,
                num_rows=m.num_rows,
                golden_share=m.golden_share,
                steps=m.steps,
                num_seeds=len(means),
                loss=float(means.mean()),
                seed_deviation=float(means.std(ddof=1)) if len(means) > 1 else 0.0,
                interval=bootstrap.interval(m.losses),
                minus_random=None if same_size is None else bootstrap.difference(m.losses, same_size),
                minus_full=None if everything is None else bootstrap.difference(m.losses, everything),
                choosing_seconds=m.choosing_seconds,
                training_seconds=m.training_seconds,
                device_seconds=None if total is None else total * num_devices,
                generation=None if m.generation is None else float(np.mean(m.generation)),
            )
        )
    return lines


def to_markdown(lines: Sequence[Line]) -> str:
    """Write the table, padded so that it reads well in a terminal too."""
    cells = [_cells(line) for line in lines]
    columns = [name for name in cells[0] if name != "generated" or any(line.generation is not None for line in lines)]
    rows = [columns, *([cell[name] for name in columns] for cell in cells)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(columns))]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)) + " |" for row in rows)


def _cells(line: Line) -> dict[str, str]:
    return {
        "of the pool": "" if line.fraction is None else f"{100 * line.fraction:.4g}%",
        "tuned on": LABELS[line.arm],
        "rows": f"{line.num_rows:,}",
        "held-out loss": f"{line.loss:.4f} +- {line.seed_deviation:.4f}",
        "minus random": _difference(line.minus_random),
        "minus full": _difference(line.minus_full),
        "golden": "" if line.golden_share is None else f"{line.golden_share:.0%}",
        "generated": "" if line.generation is None else f"{line.generation:.3f}",
        "s": _seconds(line),
        "device s": "?" if line.device_seconds is None else f"{line.device_seconds:.0f}",
    }


def _seconds(line: Line) -> str:
    choosing = "?" if line.choosing_seconds is None else f"{line.choosing_seconds:.0f}"
    return f"{choosing} + {line.training_seconds:.0f}"


def _difference(found: tuple[float, float, float] | None) -> str:
    if found is None:
        return ""
    value, low, high = found
    return f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"


def to_json(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Give the lines as JSON holds them."""
    return [dataclasses.asdict(line) for line in lines]


def draw(lines: Sequence[Line], path: Path, unit: str = "held-out loss, nats per completion token") -> None:
    """Draw loss against the share of the pool, one curve per arm with its 95% intervals; SVG, PNG or PDF by the name.

    Raises:
        ImportError: without matplotlib.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "nuggets"  # the same file for the same numbers
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    arms = [arm for arm in LABELS if any(line.arm == arm for line in lines)]
    for number, arm in enumerate(a for a in arms if any(line.arm == a and line.fraction for line in lines)):
        own = [line for line in lines if line.arm == arm and line.fraction]
        shift = 1.03 ** (number - 3)  # so that error bars stand side by side
        x = np.array([100 * line.fraction for line in own if line.fraction]) * shift
        y = np.array([line.loss for line in own])
        bars = np.abs(np.array([line.interval for line in own]).T - y)
        width = 2.5 if arm == "golden" else 1.2
        axes.errorbar(
            x,
            y,
            yerr=bars,
            label=LABELS[arm],
            marker="o",
            markersize=4,
            capsize=2,
            linewidth=width,
            zorder=10 - number,
        )
    for arm, style in (("base", ":"), ("full", "--")):
        for line in lines:
            if line.arm == arm:
                axes.axhline(line.loss, color="black", linestyle=style, linewidth=1, label=LABELS[arm])
    axes.set_xscale("log")
    axes.set_yscale("log")
    fractions = sorted({line.fraction for line in lines if line.fraction})
    axes.set_xticks([100 * f for f in fractions], [f"{100 * f:g}%" for f in fractions])
    axes.minorticks_off()
    axes.set_xlabel("share of the pool that is tuned on")
    axes.set_ylabel(unit)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=120)
    pyplot.close(figure)
