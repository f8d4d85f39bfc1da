"""How long scoring takes, what it costs, and what would make it cheaper: pure arithmetic over a measurement."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nuggets_trainer.golden.agreement import Agreement
from nuggets_trainer.golden.scores import standard_error
from nuggets_trainer.scoring.timing import Measurement, Range
from nuggets_trainer.wording import byte_size, counted, duration, rounded

STORE_BYTES_PER_PAIR = 5.7  # measured, 100 million pairs (docs/log/store_and_resuming.md)
RESULT_BYTES_PER_PAIR = 5.0  # a float32 and a mark, in memory while results are made
WORTHWHILE = 0.9  # an option that takes more than this share of the time saves nothing worth a choice
SMALLER_SCORER = 0.1  # share of the parameters that the proposed smaller scorer has
SHARES_OF_ANCHORS = (0.5, 0.25)  # proposed smaller numbers of anchors
PASSES_OF_TUNING = 3  # forward passes that a token of tuning takes: one forward, two backward
UNKNOWN_CUT = 0.8  # golden score to give the accuracy for, as long as no cut is known


@dataclass(frozen=True)
class CheaperOption:
    """An option that makes a run cheaper.

    Attributes:
        option: what to change.
        seconds: expected time of the run with it; None if that is not known.
        gives_up: what the results lose by it.
    """

    option: str
    seconds: float | None
    gives_up: str

    def describe(self) -> str:
        """Return the option in one line."""
        if self.seconds is None:
            return f"{self.option} ({self.gives_up})"
        return f"{self.option}: about {duration(self.seconds)} ({self.gives_up})"


@dataclass(frozen=True)
class Plan:
    """What a run will take; `plan_pool` makes it.

    Attributes:
        num_rows: number of rows of the pool.
        dropped: number of rows that cannot be scored, by reason.
        measurement: what some seconds of scoring have shown, scaled to the whole pool.
        sampled_rows: number of rows that were measured on; None for all.
        schedule: `race` or `exact`.
        race_possible: whether a race could find the same golden set.
        stand_in_anchors: whether rows drawn at random stood in for the anchors of the run, because choosing these
            reads the whole pool.
        device: device that was measured on.
        num_processes: number of processes of the job.
        memory_bytes: largest memory so far, of the main process' device.
        num_parameters: number of parameters of the scorer model.
        num_pairs_scored: number of pairs that were scored to measure.
        agreement: reliability of the ranking, on the rows scored so far; None if they are too few to tell.
        notes: further remarks.
        price_per_hour: price of the whole machine, in any currency; None if it was not given.
        row_tokens: number of tokens of all rows that can be scored; None if it is not known.
        rows_in_budget: rows that `max_tokens` has room for, about (`expected`) and at most (`most`); None without it.
        share_of_peak: FLOP/s of the products with weights / the device's peak, as measured; None if it is not known.
    """

    num_rows: int
    dropped: dict[str, int]
    measurement: Measurement
    sampled_rows: int | None
    schedule: str
    race_possible: bool
    stand_in_anchors: bool
    device: str
    num_processes: int
    memory_bytes: int
    num_parameters: int
    num_pairs_scored: int
    agreement: Agreement | None = None
    notes: tuple[str, ...] = ()
    price_per_hour: float | None = None
    row_tokens: float | None = None
    rows_in_budget: dict[str, int] | None = None
    share_of_peak: float | None = None

    @property
    def selection_to_training(self) -> float | None:
        """Time of scoring the whole pool / time of one epoch of tuning on all rows (STR); None if it is not known.

        Both are counted in forward tokens: a token of tuning takes three, one forward and two backward. The ratio is
        that of a scorer which is the model to tune. Pairs that are stored count as the others do.
        """
        work, measurement = self.measurement.workload, self.measurement
        scored = measurement.tokens_left[1] + measurement.tokens_done
        if not self.row_tokens or scored == 0:
            return None
        all_pairs = work.num_pairs / max(1, work.num_pairs - work.num_stored)
        return scored * all_pairs / (PASSES_OF_TUNING * self.row_tokens)

    @property
    def seconds(self) -> Range:
        """Time of the run with all that it does, without loading the model and the rows."""
        setup = self.measurement.setup_seconds
        low, expected, high = self.measurement.seconds_left
        return setup + low, setup + expected, setup + high

    @property
    def costs(self) -> Range | None:
        """Price of the run, in the currency of `price_per_hour`; None if that was not given."""
        if self.price_per_hour is None:
            return None
        price_per_second = self.price_per_hour / 3600
        low, expected, high = self.seconds
        return price_per_second * low, price_per_second * expected, price_per_second * high

    def standard_error(self, num_anchors: int) -> float:
        """Return the standard error of a golden score at the expected cut (at 0.8 if that is not known)."""
        cut = self.measurement.cut
        if cut is None:
            cut = UNKNOWN_CUT
        return float(standard_error(min(max(cut, 0.0), 1.0), num_anchors))

    def cheaper(self) -> list[CheaperOption]:
        """Return options that save time worth a choice."""
        setup, (_, expected, _) = self.measurement.setup_seconds, self.seconds
        options = [*self._fewer_anchors(), self._smaller_scorer()]
        worthwhile = [o for o in options if o.seconds is not None and o.seconds <= WORTHWHILE * expected]
        if self.schedule == "exact" and self.race_possible and setup <= WORTHWHILE * expected:
            # How many pairs a race leaves out is seen at its end.
            worthwhile.insert(0, CheaperOption("--schedule race", None, "no golden score for rows that are not kept"))
        return worthwhile

    def seconds_with(self, num_anchors: int) -> float:
        """Return the expected time of the run with another number of anchors."""
        setup, (_, expected, _) = self.measurement.setup_seconds, self.seconds
        return setup + (expected - setup) * num_anchors / max(1, self.measurement.workload.num_anchors)

    def reliabilities(self) -> dict[int, float]:
        """Return the reliability of the ranking with half as many anchors, with these, and with twice as many.

        Returns:
            The reliability by number of anchors; empty if it is not known yet.
        """
        if self.agreement is None:
            return {}
        m = self.agreement.num_anchors
        found = {}
        for number in (max(1, m // 2), m, 2 * m):
            reliability = self.agreement.reliability_with(number)
            if reliability is not None:
                found[number] = reliability
        return found

    def _describe_reliability(self) -> str:
        """Say what fewer or more anchors would give and cost."""
        assert self.agreement is not None
        parts = []
        for number, reliability in self.reliabilities().items():
            cost = ""
            if number != self.agreement.num_anchors and not self.measurement.finished:
                cost = f" (about {duration(self.seconds_with(number))})"
            parts.append(f"{reliability:.2f} with {counted(number, 'anchor')}{cost}")
        return f"{', '.join(parts)}; told by {counted(self.agreement.num_rows, 'random row')}"

    def _fewer_anchors(self) -> Iterator[CheaperOption]:
        m = self.measurement.workload.num_anchors
        for share in SHARES_OF_ANCHORS:
            fewer = max(1, round(share * m))
            if fewer < m:
                seconds = self.seconds_with(fewer)
                errors = f"{self.standard_error(fewer):.3f} instead of {self.standard_error(m):.3f}"
                yield CheaperOption(f"{fewer} anchors", seconds, f"standard error {errors}")

    def _smaller_scorer(self) -> CheaperOption:
        setup, (_, expected, _) = self.measurement.setup_seconds, self.seconds
        work = self.measurement.workload
        # It finds no pair of this model in the store.
        all_pairs = work.num_pairs / max(1, work.num_pairs - work.num_stored)
        seconds = setup + SMALLER_SCORER * (expected - setup) * all_pairs
        size = rounded(SMALLER_SCORER * self.num_parameters)
        gives_up = "it ranks some rows otherwise than this model"
        return CheaperOption(f"--scorer_model with {size} parameters", seconds, gives_up)

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers, for JSON."""
        measurement, workload = self.measurement, self.measurement.workload
        return {
            "num_rows": self.num_rows,
            "dropped": self.dropped,
            "sampled_rows": self.sampled_rows,
            **dataclasses.asdict(workload),
            "schedule": self.schedule,
            "stand_in_anchors": self.stand_in_anchors,
            "num_pairs_scored": self.num_pairs_scored,
            "finished": measurement.finished,
            "tokens_left": _by_name(measurement.tokens_left),
            "tokens_per_second": measurement.tokens_per_second,
            "share_of_peak": self.share_of_peak,
            "seconds": _by_name(self.seconds),
            "setup_seconds": measurement.setup_seconds,
            "expected_cut": measurement.cut,
            "standard_error": self.standard_error(workload.num_anchors),
            "reliability": self.reliabilities(),
            "rows_in_budget": self.rows_in_budget,
            "notes": list(self.notes),
            "device": self.device,
            "num_processes": self.num_processes,
            "memory_bytes": self.memory_bytes,
            "store_bytes": round(STORE_BYTES_PER_PAIR * workload.num_pairs),
            "price_per_hour": self.price_per_hour,
            "cost": None if self.costs is None else self.costs[1],
            "selection_to_training": self.selection_to_training,
            "cheaper": [dataclasses.asdict(option) for option in self.cheaper()],
        }

    def describe(self) -> str:
        """Return the plan as a block for people."""
        work = self.measurement.workload
        lines = [("pool", self._describe_pool()), ("pairs", self._describe_pairs())]
        if self.measurement.finished:
            lines += self._describe_end()
        else:
            lines += self._describe_work()
        lines += [
            (
                "memory",
                f"{byte_size(self.memory_bytes)} used so far, and "
                f"{byte_size(RESULT_BYTES_PER_PAIR * work.num_pairs)} more for the results",
            ),
            ("disk", f"about {byte_size(STORE_BYTES_PER_PAIR * work.num_pairs)} in the store"),
            ("accuracy", f"standard error {self.standard_error(work.num_anchors):.3f} {self._describe_cut()}"),
        ]
        if self.agreement is not None:
            lines.append(("reliable", self._describe_reliability()))
        if self.costs is not None:
            low, expected, high = self.costs
            price = f"{self.price_per_hour:g} per hour"
            lines.append(("cost", f"about {expected:,.2f} ({low:,.2f} to {high:,.2f}), at {price}"))
        if self.selection_to_training is not None and not self.measurement.finished:
            share = f"{self.selection_to_training:.2g}"
            lines.append(
                ("STR", f"{share}: scoring takes about {share} times as long as one epoch of tuning on all rows")
            )
        lines += [("cheaper", option.describe()) for option in self.cheaper()]
        if self.sampled_rows is not None:
            lines.append(("note", f"measured on {self.sampled_rows:,} rows drawn at random, and scaled to the pool"))
        if self.stand_in_anchors:
            note = "rows drawn at random stood in for the anchors; the run reads the whole pool to choose its own"
            lines.append(("note", f"{note}, which takes additional time"))
        lines += [("note", note) for note in self.notes]
        return "\n".join(f"{name:<10}{text}" for name, text in lines)

    def _describe_pool(self) -> str:
        if not self.dropped:
            return f"{self.num_rows:,} rows"
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.dropped.items())
        return f"{self.num_rows:,} rows, {sum(self.dropped.values()):,} cannot be scored ({reasons})"

    def _describe_pairs(self) -> str:
        """Say how many pairs there are, and which are known: from before, and from measuring."""
        work = self.measurement.workload
        text = (
            f"{work.num_pairs:,} ({work.num_anchors:,} anchors), {work.num_stored:,} of them stored or left out before"
        )
        if self.num_pairs_scored:
            text += f", {self.num_pairs_scored:,} scored now to measure"
        return text

    def _describe_end(self) -> list[tuple[str, str]]:
        needed = "every pair"
        if self.schedule == "race":
            needed = "all that the race needs"
        time = f"about {duration(self.seconds[1])}, after loading"
        return [
            ("left", f"nothing: {needed} is scored and stored"),
            ("next", f"`nuggets score` with the same options writes scores, golden set and report in {time}"),
        ]

    def _describe_work(self) -> list[tuple[str, str]]:
        measurement = self.measurement
        device = self.device
        if self.num_processes > 1:
            device = f"{self.num_processes} x {device}"
        low, expected, high = map(duration, self.seconds)
        tokens = rounded(measurement.workload.tokens)
        return [
            ("tokens", f"{tokens} for all pairs that were not stored before; {self._describe_share()}"),
            (
                "speed",
                f"{measurement.tokens_per_second:,.0f} tokens per second on {device}, {self._describe_peak()}",
            ),
            ("time", f"about {expected} ({low} to {high}), after loading"),
        ]

    def _describe_peak(self) -> str:
        if self.share_of_peak is None:
            return "measured"
        return f"measured: {self.share_of_peak:.0%} of its peak in matrix products"

    def _describe_share(self) -> str:
        """Say how many of the tokens are left to compute."""
        tokens = max(1.0, self.measurement.workload.tokens)
        low, expected, high = (left / tokens for left in self.measurement.tokens_left)
        if self.schedule == "exact":
            return f"{expected:.0%} of them are left"
        return f"the race still needs about {expected:.0%} of them ({low:.0%} to {high:.0%})"

    def _describe_cut(self) -> str:
        if self.measurement.cut is None:
            return f"of a golden score of {UNKNOWN_CUT}"
        return f"of a golden score at the expected cut of {self.measurement.cut:.2f}"


def _by_name(values: Range) -> dict[str, float]:
    low, expected, high = values
    return {"low": low, "expected": expected, "high": high}
