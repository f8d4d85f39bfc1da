"""Context managers that put back what selection changes while it runs."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars


@contextlib.contextmanager
def silent_progress_bars() -> Iterator[None]:
    """Hide the progress bars of a trial with one row. Their count of 1 would look like the size of the pool."""
    disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            enable_progress_bars()


@contextlib.contextmanager
def without_mixed_precision(model: torch.nn.Module) -> Iterator[None]:
    """Remove the autocast that `accelerator.prepare` put around `forward`, because scoring sets its own dtype."""
    own = vars(model)
    if "_original_forward" not in own or "forward" not in own:  # not prepared by accelerate
        yield
        return
    prepared = own["forward"]
    model.forward = own["_original_forward"]
    try:
        yield
    finally:
        model.forward = prepared


@contextlib.contextmanager
def preserved_rng() -> Iterator[None]:
    """Put the random number generators back, so that training is the same whether or not rows were scored before."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
