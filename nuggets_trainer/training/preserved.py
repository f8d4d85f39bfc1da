"""Context managers for what selection must leave as it was. Knows nothing of selection."""

from __future__ import annotations

import contextlib
import logging
import random
import signal
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def silent_progress_bars() -> Iterator[None]:
    """Hide the bars of a trial with one row, which would look as if the pool had one."""
    disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            enable_progress_bars()


@contextlib.contextmanager
def without_mixed_precision(model: torch.nn.Module) -> Iterator[None]:
    """Take off the autocast that `accelerator.prepare` put around `forward`: scoring brings its own dtype."""
    prepared = model.__dict__.get("forward") if "_original_forward" in model.__dict__ else None
    if prepared is not None:
        model.forward = model._original_forward  # type: ignore[assignment]
    try:
        yield
    finally:
        if prepared is not None:
            model.forward = prepared


@contextlib.contextmanager
def preserved_rng() -> Iterator[None]:
    """Leave the random number generators as they were, so that training does not depend on whether it scored."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextlib.contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM (preemption, a time limit) into an orderly exit with code 143, which launchers take for a retry.

    What is open is closed on the way out; by default the signal ends a process on the spot. Elsewhere than in the main
    thread, where no handler can be set, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # launchers send it twice; the first one is heeded
        logger.warning("SIGTERM: writing what is scored, and leaving with exit code %d.", 128 + number)
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
