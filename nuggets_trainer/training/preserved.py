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
