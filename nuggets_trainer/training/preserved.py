"""Context managers that put back what selection changes while it runs."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from nuggets_trainer.data.dataset import hidden_dataset_bars


@contextlib.contextmanager
def hidden_bars(hidden: bool = True) -> Iterator[None]:
    """Hide the progress bars of datasets and transformers, and with them our own; lines take the place of these.

    Args:
        hidden: whether they are hidden; False changes nothing.
    """
    was_enabled = is_progress_bar_enabled()
    with hidden_dataset_bars(hidden):
        if hidden:
            disable_progress_bar()
        try:
            yield
        finally:
            if hidden and was_enabled:
                enable_progress_bar()


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
