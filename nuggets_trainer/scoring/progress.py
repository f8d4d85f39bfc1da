"""What a person sees while a pool is scored: a bar of tqdm's, or a plain line now and then, and what `tell` says.

On a terminal and in a notebook it is a bar; elsewhere (a log file, a batch job) it is lines.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from nuggets_trainer.wording import duration

logger = logging.getLogger(__name__)

FIRST_LINE_SECONDS = 10.0  # the first line comes soon, so that a wrong job is noticed
LINE_SECONDS = 60.0  # the other lines come seldom enough for a log that is kept
RATE_SECONDS = 0.5  # shorter times give no speed
BAR_SECONDS = 0.25  # between two changes of a bar; in a notebook each is a message to the browser
BAR_FORMAT = "{desc} |{bar:24}|"


@dataclass
class State:
    """How far a phase is. What is None is not known (yet), or makes no sense in this phase.

    Attributes:
        done: number that is done, in the phase's unit, such as pairs.
        total: number that there is to do.
        work_done: forward tokens that are done, which tell the time.
        work_left: forward tokens that are left; None if `done` of `total` tells the time.
        eliminated: number of candidates that are out of the race.
        best: best golden score so far.
        cut: golden score of the last row of the golden set so far.
    """

    done: int = 0
    total: int | None = None
    work_done: float = 0.0
    work_left: float | None = None
    eliminated: int | None = None
    best: float | None = None
    cut: float | None = None


class Phase:
    """One phase of scoring, shown while it lasts; `show_phase` makes it.

    Args:
        name: what is being done.
        unit: what is counted, in the plural.
        total: number that there is to do; None if that is not known.
        bar: a bar of tqdm's; None writes lines.
        shown: whether this process shows anything.
    """

    def __init__(self, name: str, unit: str, total: int | None, bar: Any, shown: bool) -> None:
        self._name, self._unit, self._bar, self.shown = name, unit, bar, shown
        self.state = State(total=total)
        self._started = time.monotonic()
        self._next_line = self._started + FIRST_LINE_SECONDS
        self._next_change = self._started
        self._wrote_lines = False

    def restart_clock(self) -> None:
        """Count the time from now on."""
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time since the phase began."""
        return time.monotonic() - self._started

    def advance(self, number: int = 1, work: float = 0.0) -> None:
        """Count what was done.

        Args:
            number: number that was done, in the phase's unit.
            work: forward tokens that it took.
        """
        self.state.done += number
        self.state.work_done += work
        if self.state.work_left is not None:
            self.state.work_left = max(0.0, self.state.work_left - work)
        self.show()

    def show(self) -> None:
        """Bring the bar up to date, or write a line, if it is time."""
        now = time.monotonic()
        if self._bar is not None and now >= self._next_change:
            self._next_change = now + BAR_SECONDS
            self._change_bar(self.describe())
        elif self._bar is None and self.shown and now >= self._next_line:
            self._next_line, self._wrote_lines = now + LINE_SECONDS, True
            tell(logger, "%s: %s", self._name, self.describe())

    def end(self) -> None:
        """Show how the phase ended: in the bar, or in a line if lines were written before."""
        text = self.describe(ended=True)
        if self._bar is not None:
            self._change_bar(text)
        elif self._wrote_lines:
            tell(logger, "%s: %s", self._name, text)

    def _change_bar(self, text: str) -> None:
        self._bar.n, self._bar.total = self.state.done, self.state.total
        self._bar.set_description_str(f"{self._name}: {text}", refresh=False)
        self._bar.refresh()

    def seconds_left(self) -> float | None:
        """Return the time to the end at the speed so far; None if it is not known."""
        state, seconds = self.state, self.seconds
        if seconds < RATE_SECONDS or not state.done:
            return None
        if state.work_left is not None:
            return state.work_left * seconds / state.work_done if state.work_done else None
        return None if state.total is None else (state.total - state.done) * seconds / state.done

    def describe(self, ended: bool = False) -> str:
        """Return what is known in one line."""
        state = self.state
        of_total = "" if state.total is None else f" of {state.total:,}"
        parts = [f"{state.done:,}{of_total} {self._unit}"]
        if state.done and self.seconds >= RATE_SECONDS:
            rate = state.done / self.seconds
            parts.append(f"{rate:,.0f}/s" if rate >= 1 else f"{rate:.2g}/s")
        left = self.seconds_left()
        if ended:
            parts.append(f"took {duration(self.seconds)}")
        elif left is not None:
            parts.append(f"{duration(left)} left")
        if state.eliminated is not None:
            parts.append(f"{state.eliminated:,} eliminated")
        if state.best is not None:
            parts.append(f"best {state.best:.2f}")
        if state.cut is not None:
            parts.append(f"cut {state.cut:.2f}")
        return " - ".join(parts)


@contextlib.contextmanager
def show_phase(name: str, unit: str, total: int | None, shown: bool = True) -> Iterator[Phase]:
    """Show a phase while it lasts.

    Args:
        name: what is being done, such as `Scoring`.
        unit: what is counted, in the plural.
        total: number that there is to do; None if that is not known.
        shown: whether this process shows anything; only the main one should.
    """
    notebook = _in_notebook()
    if not shown or not (notebook or sys.stderr.isatty()) or not _bars_wanted():
        phase = Phase(name, unit, total, None, shown)
        yield phase
        phase.end()
        return
    # In a notebook the last state stays; on a terminal the log says what is worth keeping.
    bar = tqdm(desc=name, total=total, bar_format=BAR_FORMAT, dynamic_ncols=True, leave=notebook)
    with bar, messages_above_bars():
        phase = Phase(name, unit, total, bar, shown)
        yield phase
        phase.end()


def tell(log: logging.Logger, message: str, *args: Any) -> None:
    """Say a line of the account of a run: what is planned, how far it is, what came out.

    Where the user listens to INFO, the line goes through `logging` alone. A plain script listens to WARNING, as Python
    does by default, and would show the cautions without the result; there the line goes to stderr. It is left out
    where the user has asked for silence: by a level of the package's loggers, `logging.disable`,
    `TRANSFORMERS_VERBOSITY=error` or the Trainer's `log_level`.

    Args:
        log: logger of the module that speaks.
        message: text, with the placeholders of `logging`.
        args: values of the placeholders.
    """
    if log.isEnabledFor(logging.INFO) and log.hasHandlers():
        log.info(message, *args)
    elif _has_no_wish(log):
        tqdm.write(message % args, file=sys.stderr)


def _has_no_wish(log: logging.Logger) -> bool:
    """Whether nobody has chosen what this logger shows, nor silenced transformers."""
    from transformers.utils.logging import get_verbosity

    deciding: logging.Logger | None = log
    while deciding is not None and deciding.level == logging.NOTSET:
        deciding = deciding.parent
    is_default = deciding is None or (deciding is logging.root and deciding.level <= logging.WARNING)
    return is_default and log.manager.disable < logging.INFO and get_verbosity() <= logging.WARNING


@contextlib.contextmanager
def messages_above_bars() -> Iterator[None]:
    """Write messages that go to the console above a bar, and not into it, each once."""
    package = logging.getLogger("nuggets_trainer")
    loggers = [one for one in (logging.root, package) if any(map(_is_on_console, one.handlers))]
    if not loggers and not package.hasHandlers():
        loggers = [logging.root]  # Python writes warnings to stderr where nothing is set up
    with logging_redirect_tqdm(loggers):
        yield


def _is_on_console(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr)


def _in_notebook() -> bool:
    """Whether the code runs in the kernel of a notebook."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


def _bars_wanted() -> bool:
    """Whether the user has left bars on, for transformers (`disable_progress_bar()`) or by environment."""
    from transformers.utils.logging import is_progress_bar_enabled

    return bool(is_progress_bar_enabled())
