"""The table of a comparison: from the losses of all runs to lines with intervals, and to Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nuggets_trainer.analysis.bootstrap import Bootstrap, Difference, Interval
from nuggets_trainer.golden.arrays import Floats


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class ArmResult:
    """What the runs of one arm at one fraction gave.

    Attributes:
        arm: name of the arm.
        label: name of the arm for people.
        fraction: share of the pool; None for arms that do not depend on it.
        num_rows: number of rows tuned on, the same for every seed.
        golden_share: share of these rows that are in the golden set of that fraction, mean over seeds.
        losses: losses of the held-out rows, `(seeds, h)`, nats per completion token.
        choosing_seconds: wall time of computing what the choice needs; 0 for arms that need nothing, None if it was
            not measured (the scores are from another job).
        training_seconds: wall time of one run, mean over seeds.
        steps: number of optimizer steps.
        generation: generation metric of each seed; None if nothing was generated.
        measures: values of everything else that the models are measured by, `(seeds, values)`, by name.
    """

    arm: str
    label: str
    fraction: float | None
    num_rows: int
    golden_share: float | None
    losses: Floats
    choosing_seconds: float | None
    training_seconds: float
    steps: int
    generation: list[float] | None = None
    measures: Mapping[str, Floats] = field(default_factory=dict)


@dataclass(frozen=True)
class TableLine:
    """One line of the table; losses are in nats per completion token, intervals are 95% intervals.

    `minus_random` and `minus_full` are the mean loss minus that of random rows of the same number and of the full
    pool, each with its interval: below zero the arm is better. `seed_deviation` is the standard deviation over seeds;
    None for one seed, and for the base model, which no seed changes. One seed gives no intervals either (None).
    Device seconds are wall seconds times the number of devices.
    """

    arm: str
    label: str
    fraction: float | None
    num_rows: int
    golden_share: float | None
    steps: int
    num_seeds: int
    loss: float
    seed_deviation: float | None
    interval: Interval | None
    minus_random: Difference | None
    minus_full: Difference | None
    choosing_seconds: float | None
    training_seconds: float
    device_seconds: float | None
    generation: float | None


def make_lines(results: Sequence[ArmResult], bootstrap: Bootstrap, num_devices: int) -> list[TableLine]:
    """Compare every arm with random rows of its fraction and with the full pool, if these arms were run."""
    random_losses: dict[float | None, Floats] = {}
    full_losses = None
    for result in results:
        if result.arm == "random":
            random_losses[result.fraction] = result.losses
        if result.arm == "full":
            full_losses = result.losses
    lines = []
    for result in results:
        line = _make_line(result, bootstrap, random_losses.get(result.fraction), full_losses, num_devices)
        lines.append(line)
    return lines


def _make_line(
    result: ArmResult, bootstrap: Bootstrap, random: Floats | None, full: Floats | None, num_devices: int
) -> TableLine:
    means = bootstrap.mean(result.losses)
    minus_random = minus_full = device_seconds = generation = None
    if random is not None and result.arm != "random":
        minus_random = bootstrap.difference(result.losses, random)
    if full is not None and result.arm != "full":
        minus_full = bootstrap.difference(result.losses, full)
    if result.choosing_seconds is not None:
        device_seconds = (result.choosing_seconds + result.training_seconds) * num_devices
    if result.generation is not None:
        generation = float(np.mean(result.generation))
    has_deviation = len(means) > 1 and result.arm != "base"
    return TableLine(
        arm=result.arm,
        label=result.label,
        fraction=result.fraction,
        num_rows=result.num_rows,
        golden_share=result.golden_share,
        steps=result.steps,
        num_seeds=len(means),
        loss=float(means.mean()),
        seed_deviation=float(means.std(ddof=1)) if has_deviation else None,
        interval=bootstrap.interval(result.losses),
        minus_random=minus_random,
        minus_full=minus_full,
        choosing_seconds=result.choosing_seconds,
        training_seconds=result.training_seconds,
        device_seconds=device_seconds,
        generation=generation,
    )


def to_markdown(lines: Sequence[TableLine]) -> str:
    """Write the table, padded so that a terminal shows it well too."""
    return padded_table([_cells(line) for line in lines])


def padded_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Write rows as a Markdown table whose columns are padded to one width.

    Args:
        rows: text of each cell by the heading of its column; all rows have the same headings.

    Example:
        >>> print(padded_table([{"arm": "golden", "rows": "9"}]))
        | arm    | rows |
        | ------ | ---- |
        | golden | 9    |
    """
    headings = list(rows[0])
    widths = [max(len(heading), *(len(row[heading]) for row in rows)) for heading in headings]
    texts = [headings, ["-" * width for width in widths]]
    for row in rows:
        texts.append([row[heading] for heading in headings])
    lines = []
    for cells in texts:
        padded = [text.ljust(width) for text, width in zip(cells, widths, strict=True)]
        lines.append(f"| {' | '.join(padded)} |")
    return "\n".join(lines)


def _cells(line: TableLine) -> dict[str, str]:
    """Return the text of each column, by its heading."""
    return {
        "of the pool": _formatted(line.fraction, ".4g", percent=True),
        "tuned on": line.label,
        "rows": f"{line.num_rows:,}",
        "held-out loss": _loss(line),
        "minus random": format_difference(line.minus_random),
        "minus full": format_difference(line.minus_full),
        "golden": _formatted(line.golden_share, ".0f", percent=True),
    }


def _formatted(value: float | None, form: str, percent: bool = False) -> str:
    if value is None:
        return ""
    return f"{100 * value:{form}}%" if percent else f"{value:{form}}"


def _loss(line: TableLine) -> str:
    deviation = "" if line.seed_deviation is None else f" +- {line.seed_deviation:.4f}"
    return f"{line.loss:.4f}{deviation}"


def format_difference(found: Difference | None) -> str:
    """Write a difference and its interval; nothing if there is none."""
    if found is None:
        return ""
    value, low, high = found
    interval = "" if low is None or high is None else f" [{low:+.4f}, {high:+.4f}]"
    return f"{value:+.4f}{interval}"
