"""How exact the arithmetic is: what rounding explains, and what libraries change on their own.

They compute float32 products in fewer bits, and pack 4-bit weights anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

# The largest difference, in nats per token, that rounding can explain in the mean of a long completion.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
# Fewer tokens than these average out less of half precision's noise. With SmolLM2-135M in bfloat16, an eighth of the
# completions of one token were more than 0.1 off (0.26 at most), and none of those of five or more tokens.
STEADY_TOKENS = 16


def rounding_tolerances(dtype: torch.dtype, counts: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return the largest differences that rounding can explain, nats per token, `(len(counts),)`.

    Args:
        dtype: dtype of the arithmetic.
        counts: number of tokens that each log-prob is the mean of.
    """
    tolerances = np.full(len(counts), TOLERANCE.get(dtype, TOLERANCE[torch.float32]))
    if dtype in (torch.bfloat16, torch.float16):
        tolerances *= np.sqrt(np.maximum(STEADY_TOKENS / np.array(counts), 1))
    return tolerances


def describe_difference(
    found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32], tolerances: npt.NDArray[np.float64]
) -> str | None:
    """Describe how log-probs differ from the expected ones by more than rounding; None if they do not.

    Args:
        found: log-probs, `(r,)`, nats per token.
        expected: what they should be, `(r,)`.
        tolerances: largest differences that rounding can explain, `(r,)`.
    """
    # A NaN on both sides comes from the model, a NaN on one side from the path.
    with np.errstate(invalid="ignore"):
        difference = np.where(found == expected, 0, found - expected)
    compared = ~(np.isnan(found) & np.isnan(expected))
    difference, tolerances = difference[compared], tolerances[compared]
    if not len(difference):
        return "no log-prob is a number, so nothing can be compared"
    # The conditions are negated because a NaN fails every comparison.
    if not (np.abs(difference) <= tolerances).all():
        worst = int(np.argmax(np.abs(difference) / tolerances))
        size, explained, where = abs(difference[worst]), tolerances[worst], ""
    # Rounding errors have both signs, so their mean is smaller: a bias is found below the tolerance of single values.
    elif not abs(difference.mean()) <= tolerances.mean() / 3:
        size, explained, where = abs(difference.mean()), tolerances.mean() / 3, " on average"
    else:
        return None
    return f"log-probs differ by {size:.2g} nats per token{where}, and rounding explains {explained:.2g}"


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """Return the dtype that autocast computes in on this kind of device; None where it is off."""
    if not torch.amp.is_autocast_available(device_type) or not torch.is_autocast_enabled(device_type):
        return None
    return torch.get_autocast_dtype(device_type)


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Compute float32 matrix products in all their bits, and sum half-precision ones in float32; afterwards as before.

    `TrainingArguments(tf32=True)` and `torch.set_float32_matmul_precision` let a GPU use TF32, with 10 bits of
    mantissa, and a CPU bfloat16. Scores would then depend on what else the process does, and stored ones would mix.

    The settings of the devices are read and set first, not `torch.get_float32_matmul_precision`: that raises
    RuntimeError where they were set in the way of torch 2.9. Where it does not raise it is set too, because torch
    refuses to read `allow_tf32`, as compiling does, while the two ways disagree.
    """
    by_name = _precision_by_name()
    with contextlib.ExitStack() as stack:
        if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
            stack.enter_context(_changed(torch.backends.cuda.matmul, "fp32_precision", "ieee"))
            cpu: Any = torch.backends.mkldnn  # torch declares its `matmul` nowhere
            stack.enter_context(_changed(cpu.matmul, "fp32_precision", "ieee"))
        for name in ("allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction"):
            stack.enter_context(_changed(torch.backends.cuda.matmul, name, False))
        if by_name is not None:
            # Last, so that it is set back first: it sets all devices.
            torch.set_float32_matmul_precision("highest")
            stack.callback(torch.set_float32_matmul_precision, by_name)
        yield


def _precision_by_name() -> str | None:
    """Return what `torch.set_float32_matmul_precision` has set; None where torch refuses to say."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


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
