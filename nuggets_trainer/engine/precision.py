"""Arithmetic that libraries change on their own: float32 products in fewer bits, and 4-bit weights packed anew."""

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
def weights_as_loaded(model: torch.nn.Module) -> Iterator[None]:
    """Keep bitsandbytes from repacking 4-bit weights inside, as it does on a CPU with AVX512-BF16.

    It does so at the first forward pass in evaluation mode. `state_dict`, which the fingerprint hashes, then packs the
    weights back but not what is stored about them: the next forward pass is wrong (bitsandbytes 0.50).

    Args:
        model: a model, quantized or not.

    Raises:
        ValueError: if its weights are repacked already.
    """
    modules: Iterator[Any] = model.modules()  # bitsandbytes declares no types
    with contextlib.ExitStack() as stack:
        for module in modules:
            if not hasattr(module, "support_avx512bf16_for_cpu"):
                continue
            if getattr(module.weight.quant_state, "packing_format_for_cpu", False):
                raise ValueError(
                    "The model's 4-bit weights were repacked by bitsandbytes at a forward pass on the CPU, and cannot "
                    "be hashed without damage. Load the model again, and score before any other forward pass."
                )
            stack.enter_context(_changed(module, "support_avx512bf16_for_cpu", False))
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
