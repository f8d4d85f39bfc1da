"""Float32 that is float32: products in fewer bits, which a trainer may have switched on, are off while scoring."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Compute float32 matrix products in all their bits; afterwards in as many as before.

    `TrainingArguments(tf32=True)` and `torch.set_float32_matmul_precision` let a GPU use TF32, with 10 bits of
    mantissa, and a CPU bfloat16. Scores would then depend on what else the process does, and stored ones would mix.

    The settings of the devices are read and set, not `torch.get_float32_matmul_precision`: that raises RuntimeError
    where they were set in the way of torch 2.9.
    """
    with contextlib.ExitStack() as stack:
        if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
            stack.enter_context(_changed(torch.backends.cuda.matmul, "fp32_precision", "ieee"))
            cpu: Any = torch.backends.mkldnn  # torch declares its `matmul` nowhere
            stack.enter_context(_changed(cpu.matmul, "fp32_precision", "ieee"))
        else:  # torch before 2.9
            stack.enter_context(_changed(torch.backends.cuda.matmul, "allow_tf32", False))
        yield


@contextlib.contextmanager
def _changed(settings: object, name: str, value: str | bool) -> Iterator[None]:
    """Change a setting, and change it back."""
    before = getattr(settings, name)
    setattr(settings, name, value)
    try:
        yield
    finally:
        setattr(settings, name, before)
