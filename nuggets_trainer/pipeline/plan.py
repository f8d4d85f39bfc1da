"""How long scoring takes, what it costs, and what would make it cheaper. Pure arithmetic; knows no model and no pool.

Time goes by forward tokens, not by pairs: candidates and anchors differ in length.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from nuggets_trainer.golden.scores import standard_error
from nuggets_trainer.scoring.timing import Measurement, Range
from nuggets_trainer.wording import byte_size, duration, rounded

STORE_BYTES_PER_PAIR = 5.7  # measured, 100 million pairs (docs/log/store_and_resuming.md)
RESULT_BYTES_PER_PAIR = 5.0  # float32 and a mark, in memory while results are made
WORTHWHILE = 0.9  # an option that takes more than this share of the time saves nothing worth a choice
SMALLER_SCORER = 0.1  # parameters of the smaller scorer that is put forward, as a share


@dataclass(frozen=True)
class Plan:
    """What `nuggets plan` tells.

    Attributes:
        num_rows: of the pool.
        dropped: rows that cannot be scored, by reason.
        measurement: on a sample of the pool where `sampled_rows` is set, scaled to all of it.
        sampled_rows: rows that were looked at; None for all.
        schedule: `race` or `exact`.
        race_possible: whether a race could find the same golden set.
        stand_in_anchors: anchors are rows drawn at random, because choosing those of the run reads the whole pool.
        device: what was measured on.
        num_processes: of the job.
        memory_bytes: largest so far, of the main process' device.
        num_parameters: of the scorer model.
        num_pairs_scored: to measure.
        price_per_hour: of the whole machine; None if not given.
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
    price_per_hour: float | None = None

    @property
    def seconds(self) -> Range:
        """Time of the run with all that it does; loading model and rows comes on top."""
        setup = self.measurement.setup_seconds
        low, expected, high = self.measurement.seconds_left
        return setup + low, setup + expected, setup + high

    def standard_error(self, num_anchors: int) -> float:
        """Return the standard error (`golden.standard_error`) at the cut (0.8 where unknown), with so many anchors."""
        p = 0.8 if self.measurement.cut is None else min(max(self.measurement.cut, 0.0), 1.0)
        return float(standard_error(p, num_anchors))

    def cheaper(self) -> list[dict[str, Any]]:
        """Return options that save time worth naming, each with its expected seconds and what it gives up."""
        m, (_, expected, _) = self.measurement.workload.num_anchors, self.seconds
        setup, scoring = self.measurement.setup_seconds, expected - self.measurement.setup_seconds
        options: list[dict[str, Any]] = []
        if self.schedule == "exact" and self.race_possible and setup <= WORTHWHILE * expected:
            options.append(
                {"option": "--schedule race", "seconds": None, "gives_up": "golden scores of rows that are not kept"}
            )
        for share in (0.5, 0.25):
            fewer = max(1, round(share * m))
            if fewer < m:
                error = f"standard error {self.standard_error(fewer):.3f} instead of {self.standard_error(m):.3f}"
                seconds = setup + scoring * fewer / m
                options.append({"option": f"{fewer} anchors", "seconds": seconds, "gives_up": error})
        size = f"a scorer model of {rounded(SMALLER_SCORER * self.num_parameters)} parameters"
        work = self.measurement.workload
        seconds = setup + SMALLER_SCORER * scoring * work.num_pairs / max(1, work.num_pairs - work.num_stored)
        options.append({"option": f"--scorer_model: {size}", "seconds": seconds, "gives_up": "some agreement"})
        return [o for o in options if o["seconds"] is None or o["seconds"] <= WORTHWHILE * expected]

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers, for JSON."""
        measurement, workload = self.measurement, self.measurement.workload
        names = ("low", "expected", "high")
        return {
            "num_rows": self.num_rows,
            "dropped": self.dropped,
            "sampled_rows": self.sampled_rows,
            **dataclasses.asdict(workload),
            "schedule": self.schedule,
            "stand_in_anchors": self.stand_in_anchors,
            "num_pairs_scored": self.num_pairs_scored,
            "finished": measurement.finished,
            "tokens_left": dict(zip(names, measurement.tokens_left, strict=True)),
            "tokens_per_second": measurement.tokens_per_second,
            "seconds": dict(zip(names, self.seconds, strict=True)),
            "setup_seconds": measurement.setup_seconds,
            "expected_cut": measurement.cut,
            "standard_error": self.standard_error(workload.num_anchors),
            "device": self.device,
            "num_processes": self.num_processes,
            "memory_bytes": self.memory_bytes,
            "store_bytes": round(STORE_BYTES_PER_PAIR * workload.num_pairs),
            "price_per_hour": self.price_per_hour,
            "cost": None if self.price_per_hour is None else self.seconds[1] / 3600 * self.price_per_hour,
            "cheaper": self.cheaper(),
        }

    def describe(self) -> str:
        """Return the plan as a block for people."""
        work = self.measurement.workload
        result_bytes = RESULT_BYTES_PER_PAIR * work.num_pairs
        rows = [
            ("pool", f"{self.num_rows:,} rows" + self._dropped()),
            ("pairs", f"{work.num_pairs:,} ({work.num_anchors:,} anchors){self._known()}"),
            *(self._done() if self.measurement.finished else self._to_come()),
            ("memory", f"{byte_size(self.memory_bytes)} used, and {byte_size(result_bytes)} for results"),
            ("disk", f"about {byte_size(STORE_BYTES_PER_PAIR * work.num_pairs)} in the store"),
            ("accuracy", f"standard error {self.standard_error(work.num_anchors):.3f} of a golden score {self._at()}"),
        ]
        if self.price_per_hour is not None:
            low, expected, high = self.seconds
            costs = (f"{seconds / 3600 * self.price_per_hour:,.2f}" for seconds in (expected, low, high))
            rows.append(("cost", "about {} ({} to {}), at {:g} per hour".format(*costs, self.price_per_hour)))
        for option in self.cheaper():
            time = "" if option["seconds"] is None else f": about {duration(option['seconds'])}"
            rows.append(("cheaper", f"{option['option']}{time} ({option['gives_up']})"))
        if self.sampled_rows is not None:
            rows.append(("note", f"looked at {self.sampled_rows:,} rows drawn at random, not at all"))
        if self.stand_in_anchors:
            note = (
                "rows drawn at random stand in for the anchors, whose choice reads the pool: that takes time as well"
            )
            rows.append(("note", note))
        return "\n".join(f"{name:<10}{text}" for name, text in rows)

    def _known(self) -> str:
        """Say which pairs are known: from before, and from measuring."""
        before = f", {self.measurement.workload.num_stored:,} of them stored or left out before"
        return before + (f", {self.num_pairs_scored:,} scored now to measure" if self.num_pairs_scored else "")

    def _done(self) -> list[tuple[str, str]]:
        needed = "all that the race needs" if self.schedule == "race" else "every pair"
        then = f"in about {duration(self.seconds[1])}, after loading"
        return [
            ("left", f"nothing: {needed} is scored and stored"),
            ("next", f"the same options with `nuggets score` write scores, golden set and report {then}"),
        ]

    def _to_come(self) -> list[tuple[str, str]]:
        low, expected, high = map(duration, self.seconds)
        speed = f"{self.measurement.tokens_per_second:,.0f} tokens per second on {self._where()}, measured"
        return [
            ("tokens", f"{rounded(self.measurement.workload.tokens)} for all pairs not known before; {self._share()}"),
            ("speed", speed),
            ("time", f"about {expected} ({low} to {high}), after loading"),
        ]

    def _dropped(self) -> str:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.dropped.items())
        return f", {sum(self.dropped.values()):,} cannot be scored ({reasons})" if reasons else ""

    def _share(self) -> str:
        low, expected, high = (
            tokens / max(1.0, self.measurement.workload.tokens) for tokens in self.measurement.tokens_left
        )
        if self.schedule == "exact":
            return f"{expected:.0%} of them left"
        return f"the race takes about {expected:.0%} more of them ({low:.0%} to {high:.0%})"

    def _where(self) -> str:
        return self.device if self.num_processes == 1 else f"{self.num_processes} x {self.device}"

    def _at(self) -> str:
        cut = self.measurement.cut
        return "of 0.8" if cut is None else f"at the expected cut of {cut:.2f}"
