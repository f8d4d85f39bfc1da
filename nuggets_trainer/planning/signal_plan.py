"""What a run that ranks rows by a signal of their own will take: pure arithmetic over a measurement."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nuggets_trainer.config.requirement import Requirement
from nuggets_trainer.golden.ranking import SIGNAL_VALUES
from nuggets_trainer.wording import byte_size, counted, duration, tally


@dataclass(frozen=True)
class SignalCost:
    """What computing the signals of some random rows has shown.

    Attributes:
        seconds: time that the signals of all rows of the pool still take.
        num_rows: number of rows that were measured.
        num_known: number of different rows whose signals are all stored.
        share_met: share of the measured rows that meet the condition `require`; None without one, and for a condition
            on scores.
    """

    seconds: float
    num_rows: int
    num_known: int
    share_met: float | None


def describe_share_met(cost: SignalCost, condition: str) -> str:
    """Say how many of the measured rows meet a condition; `share_met` must be known.

    Args:
        cost: what was measured.
        condition: text of the condition.
    """
    text = f"{cost.share_met:.0%} of {counted(cost.num_rows, 'random row')} meet `{condition}`"
    if Requirement(condition).percentiles:
        text += ", with the percentiles of these rows"
    return text


@dataclass(frozen=True)
class SignalPlan:
    """What a run without pairs will take; `plan_pool` makes it.

    Attributes:
        rank_by: signal that rows are ranked by.
        num_rows: number of rows of the pool.
        dropped: number of rows that have no signal, by reason.
        sampled_rows: number of rows that were looked at; None for all.
        cost: what was measured.
        setup_seconds: time from the start to the first forward pass.
        require: the condition on rows; None without one.
        device: device that was measured on.
        num_processes: number of processes of the job.
        memory_bytes: largest memory so far, of the main process' device.
        price_per_hour: price of the whole machine, in any currency; None if it was not given.
        notes: further remarks.
        rows_in_budget: rows that `max_tokens` has room for, about (`expected`) and at most (`most`); None without it.
    """

    rank_by: str
    num_rows: int
    dropped: Mapping[str, int]
    sampled_rows: int | None
    cost: SignalCost
    setup_seconds: float
    require: str | None
    device: str
    num_processes: int
    memory_bytes: int = 0
    price_per_hour: float | None = None
    notes: tuple[str, ...] = ()
    rows_in_budget: Mapping[str, int] | None = None

    @property
    def seconds(self) -> float:
        """Time of the run, without loading the model and the rows."""
        return self.setup_seconds + self.cost.seconds

    @property
    def price(self) -> float | None:
        """Price of the run; None if `price_per_hour` was not given."""
        return None if self.price_per_hour is None else self.price_per_hour * self.seconds / 3600

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers, for JSON."""
        numbers = dataclasses.asdict(self)
        measured = numbers.pop("cost")
        return {**numbers, "num_pairs": 0, "measured": measured, "seconds": self.seconds, "cost": self.price}

    def describe(self) -> str:
        """Return the plan as a block for people."""
        measured = f"{counted(self.cost.num_rows, 'random row')} measured on {self.num_processes} x {self.device}"
        words = SIGNAL_VALUES[self.rank_by].words
        lines = [
            ("pool", f"{self.num_rows:,} rows" + (f" ({tally(self.dropped)} dropped)" if self.dropped else "")),
            ("pairs", f"none: rows are ranked by their {words}"),
            ("time", f"about {duration(self.seconds)}, after loading ({measured})"),
            ("memory", f"{byte_size(self.memory_bytes)} used so far"),
        ]
        if self.cost.num_known:
            lines.insert(2, ("stored", f"the signals of {counted(self.cost.num_known, 'row')}"))
        if self.cost.share_met is not None and self.require is not None:
            lines.append(("require", describe_share_met(self.cost, self.require)))
        if self.price is not None:
            lines.append(("cost", f"about {self.price:,.2f}, at {self.price_per_hour:g} per hour"))
        if self.sampled_rows is not None:
            lines.append(("note", f"{self.sampled_rows:,} rows drawn at random stand for the pool"))
        lines += [("note", note) for note in self.notes]
        return "\n".join(f"{name:<10}{text}" for name, text in lines)
