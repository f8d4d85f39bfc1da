"""What a comparison has found, and its files: compare.json, compare.md and compare.svg."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nuggets_trainer.comparison.costs import ArmCost, costs_to_markdown
from nuggets_trainer.comparison.given_scores import describe_reliability
from nuggets_trainer.comparison.measure_table import MeasureLine, measures_to_markdown
from nuggets_trainer.comparison.options import CompareArguments
from nuggets_trainer.comparison.plot import draw_losses
from nuggets_trainer.comparison.table import TableLine, to_markdown
from nuggets_trainer.comparison.verdict import Verdict, describe_resolution
from nuggets_trainer.store.files import write_atomically
from nuggets_trainer.wording import counted

logger = logging.getLogger("nuggets_trainer.compare")

EXPLAIN_MEASURES = (
    "Other measures: the mean over rows or documents and over seeds, and behind it the mean minus that of random rows "
    "of the same number, with the 95% interval. A loss is good if it is low; an exact match, ROUGE-L or an accuracy "
    "is good if it is high."
)


@dataclass(frozen=True, eq=False)
class ComparisonResults:
    """What a comparison has found.

    Attributes:
        verdict: the verdict.
        lines: lines of the table.
        costs: what each arm costs.
        follows: what the golden scores follow, as `follow_scores` returns it; None after a race.
        signal_check: content of signal_check.json; None if the check was not made.
        num_heldout: number of held-out rows.
        num_candidates: number of rows that the arms chose from.
        num_devices: number of devices.
        reliability_of_scores: reliability of the scores of other programs that are given by anchor, by their names and
            for each size.
        measures: everything else that the models are measured by.
        contamination: result of `check_heldout`.
    """

    verdict: Verdict
    lines: Sequence[TableLine]
    costs: Sequence[ArmCost]
    follows: dict[str, Any] | None
    signal_check: dict[str, Any] | None
    num_heldout: int
    num_candidates: int
    num_devices: int
    reliability_of_scores: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    measures: Sequence[MeasureLine] = ()
    contamination: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the results ready for JSON."""
        follows = None
        if self.follows is not None:
            follows = {name: value for name, value in self.follows.items() if name != "text"}
        return {
            "verdict": dataclasses.asdict(self.verdict),
            "lines": [dataclasses.asdict(line) for line in self.lines],
            "costs": [dataclasses.asdict(cost) for cost in self.costs],
            "heldout_rows": self.num_heldout,
            "num_candidates": self.num_candidates,
            "signal_check": self.signal_check,
            "contamination": self.contamination,
            "follows": follows,
            "reliability_of_scores": self.reliability_of_scores,
            "measures": [dataclasses.asdict(line) for line in self.measures],
        }

    def describe(self, options: CompareArguments) -> str:
        """Write the verdict, the tables and what they mean, as Markdown."""
        resolution = describe_resolution(self.verdict, options.num_seeds, self.num_heldout)
        parts = [
            f"{self.verdict.sentence} {resolution}".rstrip(),
            to_markdown(self.lines),
            explain_table(options, self.num_heldout),
        ]
        if self.measures:
            parts += [measures_to_markdown(self.measures), EXPLAIN_MEASURES]
        if self.follows is not None and self.follows["text"]:
            parts.append(self.follows["text"])
        if self.reliability_of_scores:
            parts.append(describe_reliability(self.reliability_of_scores))
        if self.contamination:
            parts.append(self.contamination["says"])
        if self.signal_check is not None:
            parts.append(self.signal_check["says"])
        parts += [costs_to_markdown(self.costs), explain_costs(self.num_devices)]
        return "\n\n".join(parts)


def explain_table(options: CompareArguments, num_heldout: int) -> str:
    """Say what the numbers of the table are."""
    budget = "the same number of optimizer steps"
    if options.budget == "epochs":
        budget = "the same number of epochs over its own rows"
    differences = (
        "Differences are paired; their 95% intervals, in brackets, are those of Student's t over seeds and held-out "
        f"rows ({counted(options.num_resamples, 'resample')} of the rows)."
    )
    if options.num_seeds == 1:
        differences = (
            "Differences are paired. One seed cannot tell how far another would be from it, so there are no "
            "deviations and no intervals: set `num_seeds` to 3 or more."
        )
    return (
        f"The loss is in nats per completion token on {counted(num_heldout, 'held-out row')}: mean and standard "
        f"deviation of {counted(options.num_seeds, 'seed')}. Each arm takes {budget}. {differences} `golden` is the "
        "share of the rows that are in the golden set of that size."
    )


def explain_costs(num_devices: int) -> str:
    """Say what the numbers of the costs are."""
    return (
        f"Seconds are wall time on {counted(num_devices, 'device')}. STR is the time of choosing divided by the time "
        "of tuning on all rows for as many steps (selection-to-training ratio). What choosing needs is computed once "
        "for all arms that need it; a control that is matched to the golden set needs the scores too."
    )


def file_stem(options: CompareArguments) -> str:
    """Return how the names of the files begin; a quick comparison leaves those of the full one alone."""
    return "compare_quick" if options.quick else "compare"


def write_comparison(found: ComparisonResults, options: CompareArguments, output_dir: Path) -> None:
    """Write compare.json, compare.md and compare.svg; a quick comparison, compare_quick.json and so on."""
    stem = file_stem(options)
    content = {**found.to_dict(), "budget": options.budget}
    write_atomically(output_dir / f"{stem}.json", json.dumps(content, indent=2).encode())
    write_atomically(output_dir / f"{stem}.md", f"{found.describe(options)}\n".encode())
    try:
        draw_losses(found.lines, output_dir / f"{stem}.svg")
    except ImportError:
        logger.warning("No plot: matplotlib is not installed. Run `pip install nuggets_trainer[plot]`.")
