"""Times the calls of the engine, shows how far scoring is, logs once how long it will take, and ends it in order."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from nuggets_trainer.racing.forecast import tokens_left, tokens_of_all
from nuggets_trainer.racing.gain_race import GainRace
from nuggets_trainer.racing.race import Race
from nuggets_trainer.ranks import Ranks
from nuggets_trainer.scoring.progress import Phase, tell
from nuggets_trainer.scoring.timing import Measurement, Range, Workload, describe_time, speed_of, speed_together

logger = logging.getLogger(__name__)

TELL_AFTER_SECONDS = 5.0  # scoring time after which the speed is known well enough to log a forecast
# A plan waits up to this many times as long for the pilot of a race, whose end it cannot tell before.
WAIT_FOR_PILOT = 2
UNKNOWN = (0.2, 0.5, 1.0)  # assumed share of the tokens that a race takes, before its pilot is scored
LOOK_SECONDS = 1.0  # time between two looks at a race: counting what a large one has left takes a moment


class Watch:
    """Tracks the progress and speed of one process.

    Args:
        stop_after: seconds of scoring after which enough was seen; None never stops.
        quiet: whether to say nothing.

    Attributes:
        workload: what there is to score, of all processes.
        calls: tokens and seconds of each call of the engine.
        tokens_left: forward tokens that are left, of this process or, in a race, of all; low, expected, high.
        finished: whether nothing is left to score.
        began: time at which scoring began, by `time.monotonic()`.
    """

    def __init__(self, stop_after: float | None = None, quiet: bool = False) -> None:
        self._stop_after = stop_after
        self._told = quiet or stop_after is not None  # a plan tells the time itself
        self.workload = Workload(0, 0, 0, 0, 0.0)
        self.tokens_left: Range = (0.0, 0.0, 0.0)
        self.calls: list[tuple[float, float]] = []
        self._cut: float | None = None
        self._sharing = 1
        self._foreseen = True  # until a race says that it cannot know yet
        self._looked_at = -math.inf
        self._phase: Phase | None = None
        self.finished = False
        self.began = self._last = time.monotonic()

    def start(self, phase: Phase, workload: Workload, own_tokens: float | None = None, sharing: int = 1) -> None:
        """Begin to track.

        Args:
            phase: display of the progress.
            workload: what there is to score, of all processes.
            own_tokens: forward tokens that this process scores of it; None if all processes share what is left, wave
                after wave.
            sharing: number of processes that share it.
        """
        tokens = workload.tokens if own_tokens is None else own_tokens
        self._phase, self.workload, self._sharing = phase, workload, sharing
        self.tokens_left = tokens, tokens, tokens
        phase.state.work_left = tokens
        if phase.shown and not self._told:
            tell(logger, "plan: %s", workload.describe())

    def restart_clock(self) -> None:
        """Count the time from now on: what took time before was no scoring."""
        self.began = self._last = time.monotonic()
        if self._phase is not None:
            self._phase.restart_clock()

    def skip(self) -> None:
        """Leave out the time since the last call: something else was done meanwhile."""
        self._last = time.monotonic()

    @property
    def stopped(self) -> bool:
        """Whether enough was seen to stop."""
        if self._stop_after is None or not self.calls:
            return False
        patience = 1 if self._foreseen else WAIT_FOR_PILOT
        return time.monotonic() - self.began >= patience * self._stop_after

    def scored(self, num_pairs: int, num_tokens: int) -> None:
        """Count a call of the engine that has returned."""
        assert self._phase is not None
        now = time.monotonic()
        self.calls.append((num_tokens, now - self._last))
        self._last = now
        together = self._sharing * num_tokens
        low, expected, high = self.tokens_left
        self.tokens_left = max(0.0, low - together), max(0.0, expected - together), max(0.0, high - together)
        self._phase.advance(self._sharing * num_pairs, together)
        if self._phase.shown and not self._told and self._foreseen and now - self.began >= TELL_AFTER_SECONDS:
            self._told = True
            speed, spread = speed_of(self.calls)
            tell(logger, "plan: %s", describe_time(self.tokens_left, self._sharing * speed, spread))

    def update_from_race(self, race: Race | GainRace, last: bool) -> None:
        """Take over how far a race is.

        Args:
            race: the race.
            last: whether the race is over; before that, it is looked at now and then only.
        """
        assert self._phase is not None
        if not last and time.monotonic() - self._looked_at < LOOK_SECONDS and self._foreseen:
            return
        self._looked_at = time.monotonic()
        state, left, standings = self._phase.state, tokens_left(race), race.standings
        state.done, state.eliminated = int(standings.num_scored.sum()), standings.num_eliminated
        state.best, state.cut = standings.best, standings.cut
        self._foreseen = not math.isnan(left[0])
        if self._foreseen:
            self.tokens_left, state.work_left = left, left[1]
            if isinstance(race, Race):  # the cut of a race for gains is no golden score
                self._cut = race.expected_cut
        else:
            low, expected, high = UNKNOWN
            tokens = tokens_of_all(race)
            self.tokens_left, state.work_left = (low * tokens, expected * tokens, high * tokens), None
        self._phase.show()

    def measure(self, ranks: Ranks, started: float) -> Measurement:
        """Return what scoring has shown so far; all ranks must call it.

        Args:
            ranks: processes of the job.
            started: time at which the job began, by `time.monotonic()`.
        """
        own_speed, own_spread, own_done = 0.0, 0.0, 0.0
        if self.calls:
            own_speed, own_spread = speed_of(self.calls)
            own_done = sum(tokens for tokens, _ in self.calls)
        speeds, done = ranks.gather([own_speed]), sum(ranks.gather([own_done]))
        lefts = ranks.gather([self.tokens_left])
        if self._sharing > 1:
            lefts, speed = lefts[:1], sum(speeds)  # the main process knows the race
        else:
            speed = speed_together([expected for _, expected, _ in lefts], speeds)
        low, expected, high = np.sum(lefts, axis=0).tolist()
        finished = all(ranks.gather([self.finished]))
        return Measurement(
            workload=self.workload,
            tokens_left=(0.0, 0.0, 0.0) if finished else (low, expected, high),
            tokens_done=done,
            tokens_per_second=speed,
            spread=max(ranks.gather([own_spread])),
            cut=ranks.on_main(lambda: self._cut),
            setup_seconds=self.began - started,
            finished=finished,
        )


@contextlib.contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM (preemption, a time limit) into an orderly exit with code 143, after which launchers try again.

    By default the signal ends a process on the spot; here all open context managers are left first, so that what is
    scored is written. Outside the main thread, where no handler can be set, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: Any) -> None:
        signal.signal(
            signal.SIGTERM, signal.SIG_IGN
        )  # launchers send it twice; the second one must not interrupt the exit
        _say_that_it_leaves(128 + number)
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _say_that_it_leaves(code: int) -> None:
    line = f"SIGTERM: writing what is scored, and leaving with exit code {code}. The same command continues."
    try:
        logger.warning("%s", line)
    except RuntimeError:
        # The signal came while a line was being written: Python's buffers refuse a second write inside the first.
        os.write(2, f"{line}\n".encode())
