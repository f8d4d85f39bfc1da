"""What is measured besides the loss on the first held-out set, as a table; and every run, as one Parquet file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nuggets_trainer.analysis.bootstrap import Bootstrap, Difference, Interval
from nuggets_trainer.comparison.table import ArmResult, format_difference, make_lines, padded_table
from nuggets_trainer.golden.arrays import Floats
from nuggets_trainer.store.files import write_atomically

Weights = Callable[[str | None, int], npt.NDArray[np.int64]]  # as `heldout.measures.Measures.weights`


@dataclass(frozen=True)
class MeasureLine:
    """One measure of one arm; differences and intervals are as in `TableLine`.

    `mean` is over values and seeds. A measure that has one value for each model, such as a perplexity, has no
    intervals.
    """

    measure: str
    arm: str
    label: str
    fraction: float | None
    mean: float
    seed_deviation: float | None
    interval: Interval | None
    minus_random: Difference | None
    minus_full: Difference | None


def make_measure_lines(
    results: Sequence[ArmResult], weights: Weights, num_seeds: int, num_resamples: int
) -> list[MeasureLine]:
    """Compare every arm with random rows and the full pool by each measure.

    Args:
        results: results of all arms.
        weights: function that gives the weights of a measure's values in its mean.
        num_seeds: number of runs of each arm.
        num_resamples: number of resamples of the values.
    """
    lines = []
    for measure in dict.fromkeys(name for result in results for name in result.measures):
        measured = [result for result in results if measure in result.measures]
        values = _of_one_size([result.measures[measure] for result in measured])
        own = []
        for result, each in zip(measured, values, strict=True):
            own.append(dataclasses.replace(result, losses=each))
        bootstrap = Bootstrap(weights(measure, values[0].shape[1]), num_seeds, num_resamples)
        for line in make_lines(own, bootstrap, num_devices=1):
            lines.append(
                MeasureLine(
                    measure=measure,
                    arm=line.arm,
                    label=line.label,
                    fraction=line.fraction,
                    mean=line.loss,
                    seed_deviation=line.seed_deviation,
                    interval=line.interval,
                    minus_random=line.minus_random,
                    minus_full=line.minus_full,
                )
            )
    return lines


def _of_one_size(values: Sequence[Floats]) -> list[Floats]:
    """Return values of all arms; their means if a run of an earlier version kept no more than that."""
    if len({each.shape[1] for each in values}) == 1:
        return list(values)
    return [each.mean(axis=1, keepdims=True) for each in values]


def measures_to_markdown(lines: Sequence[MeasureLine]) -> str:
    """Write a table with one column for each measure: the mean, and behind it the difference from random rows."""
    rows: dict[tuple[float | None, str], dict[str, str]] = {}
    measures = list(dict.fromkeys(line.measure for line in lines))
    for line in lines:
        size = "" if line.fraction is None else f"{100 * line.fraction:.4g}%"
        empty = {"of the pool": size, "tuned on": line.label, **dict.fromkeys(measures, "")}
        row = rows.setdefault((line.fraction, line.label), empty)
        row[line.measure] = f"{line.mean:.4f} {format_difference(line.minus_random)}".rstrip()
    return padded_table(list(rows.values()))


def write_runs(results: Sequence[ArmResult], seeds: Sequence[int], weights: Weights, path: Path) -> None:
    """Write every run and measure as one row of a Parquet file.

    Columns: `arm`, `fraction` (null without one), `seed`, `num_rows`, `steps`, `measure` (`loss` on the first held-out
    set, or the name of another measure), `mean`, and `values` with the `weights` that the mean weighs them by.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for result in results:
        for name, values in (("loss", result.losses), *result.measures.items()):
            own = weights(None if name == "loss" else name, values.shape[1])
            if len(own) != values.shape[1]:
                own = np.ones(values.shape[1], dtype=np.int64)
            for seed, of_seed in zip(seeds, values, strict=True):
                rows.append(
                    {
                        "arm": result.arm,
                        "fraction": result.fraction,
                        "seed": seed,
                        "num_rows": result.num_rows,
                        "steps": result.steps,
                        "measure": name,
                        "mean": float(np.average(of_seed, weights=own)),
                        "values": of_seed.tolist(),
                        "weights": own.tolist(),
                    }
                )
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    write_atomically(path, sink.getvalue())
