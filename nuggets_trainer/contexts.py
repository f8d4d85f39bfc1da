"""Context managers for what selection must leave as it was. Knows nothing of selection."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars


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
