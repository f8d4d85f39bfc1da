"""What a person sees while a pool is scored: one live display, or a plain line now and then. Knows no model, no files.

On a terminal a bar of rich's; in a notebook one line that changes in place (rich's bar would need ipywidgets there);
elsewhere (a log file, a batch session) lines through `logging`.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from nuggets_trainer.wording import duration

logger = logging.getLogger(__name__)

FIRST_LINE_SECONDS = 10.0  # without a terminal: the first line soon, so that a wrong job is seen,
LINE_SECONDS = 60.0  # the others seldom enough for a log that is kept
RATE_SECONDS = 0.5  # no speed is told from less
NOTEBOOK_SECONDS = 0.5  # each change of a line in a notebook is a message to the browser


@dataclass
class State:
    """How far a phase is; what is None is not known (yet), or makes no sense in this phase.

    Attributes:
        done, total: in the phase's unit, such as pairs.
        work_done, work_left: forward tokens, which tell the time; None where `done` of `total` does.
        eliminated: candidates out of the race.
        best, cut: best golden score so far, and the score that the last of the golden set has so far.
    """

    done: int = 0
    total: int | None = None
    work_done: float = 0.0
    work_left: float | None = None
    eliminated: int | None = None
    best: float | None = None
    cut: float | None = None


class NotebookLine:
    """One line in the output of a notebook's cell, which changes in place and stands at the end."""

    def __init__(self) -> None:
        from IPython.display import display

        self._handle: Any = display(  # type: ignore[no-untyped-call]
            {"text/plain": ""}, raw=True, display_id=True
        )
        self._next = 0.0

    def show(self, text: str, at_once: bool = False) -> None:
        """Put the text there, unless the last one was a moment ago."""
        if at_once or time.monotonic() >= self._next:
            self._next = time.monotonic() + NOTEBOOK_SECONDS
            self._handle.update({"text/plain": text}, raw=True)


class Phase:
    """One phase of a session, shown while it lasts; `show_phase` makes it.

    Args:
        name: what is being done.
        unit: what is counted.
        total: how many there are; None if that is not known.
        display: rich's, or a notebook's line; None writes lines.
        shown: whether this process shows anything.
    """

    def __init__(
        self, name: str, unit: str, total: int | None, display: Progress | NotebookLine | None, shown: bool
    ) -> None:
        self._name, self._unit, self._display, self.shown = name, unit, display, shown
        self.state = State(total=total)
        self._started = time.monotonic()
        self._next_line = self._started + FIRST_LINE_SECONDS
        self._wrote_lines = False
        self._task: TaskID | None = None
        if isinstance(display, Progress):
            self._task = display.add_task(name, total=total, told="")

    def begin(self) -> None:
        """Count the time from now on."""
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time since the phase began."""
        return time.monotonic() - self._started

    def advance(self, number: int = 1, work: float = 0.0) -> None:
        """Count what was done, and the forward tokens that it took."""
        self.state.done += number
        self.state.work_done += work
        if self.state.work_left is not None:
            self.state.work_left = max(0.0, self.state.work_left - work)
        self.show()

    def show(self) -> None:
        """Bring the display up to date, or write a line if it is time."""
        state = self.state
        if isinstance(self._display, NotebookLine):
            self._display.show(f"{self._name}: {self.describe()}")
        elif self._display is not None and self._task is not None:
            self._display.update(self._task, completed=state.done, total=state.total, told=self.describe())
        elif self.shown and time.monotonic() >= self._next_line:
            self._next_line, self._wrote_lines = time.monotonic() + LINE_SECONDS, True
            logger.info("%s: %s", self._name, self.describe())

    def end(self) -> None:
        """Say how it ended, where the last line that was written still stands."""
        text = f"{self._name}: {self.describe(ended=True)}"
        if isinstance(self._display, NotebookLine):
            self._display.show(text, at_once=True)
        elif self._wrote_lines:
            logger.info("%s", text)

    def seconds_left(self) -> float | None:
        """Time to the end at the speed so far; None if it cannot be told."""
        state, seconds = self.state, self.seconds
        if seconds < RATE_SECONDS or not state.done:
            return None
        if state.work_left is not None:
            return state.work_left * seconds / state.work_done if state.work_done else None
        return None if state.total is None else (state.total - state.done) * seconds / state.done

    def describe(self, ended: bool = False) -> str:
        """Return what is known, in one line."""
        state = self.state
        of_total = "" if state.total is None else f" of {state.total:,}"
        parts = [f"{state.done:,}{of_total} {self._unit}"]
        if state.done and self.seconds >= RATE_SECONDS:
            parts.append(f"{state.done / self.seconds:,.0f}/s")
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
        total: how many there are; None if that is not known.
        shown: False on all processes but the main one.
    """
    console = Console(stderr=True)
    live = shown and (console.is_terminal or console.is_jupyter) and _bars_wanted()
    if not live or console.is_jupyter:
        phase = Phase(name, unit, total, NotebookLine() if live else None, shown)
        yield phase
        phase.end()
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.fields[told]}"))
    with Progress(*columns, console=console, refresh_per_second=4, transient=True) as display:
        yield Phase(name, unit, total, display, shown)


def _bars_wanted() -> bool:
    """Whether the user has not switched bars off, for transformers (`disable_progress_bar()`) or by environment."""
    from transformers.utils.logging import is_progress_bar_enabled

    return bool(is_progress_bar_enabled())
