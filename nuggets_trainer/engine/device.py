"""The device: how many tokens of a forward pass fit its memory, whether that ran out, copies to it, and its speed."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import torch
from accelerate.utils.memory import should_reduce_batch_size

from nuggets_trainer.engine.model import context_length, matmul_weights
from nuggets_trainer.engine.precision import full_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

# Matrix products are fastest at this size on a CPU: caches hold the activations, and memory stays in the tens of MB.
CPU_TOKENS = 1024
CUDA_TOKENS = 16384  # kernels gain nothing from longer rows
PROBE_TOKENS = 512
SHARE_OF_FREE = 0.6  # the rest is for prefixes, the head's blocks and fragmentation
# Rows of a square matrix product that keeps the device busy, and products to take the fastest of.
PEAK_ROWS = {"cpu": 1024, "cuda": 8192}
PEAK_ROUNDS = 5
MUCH_FASTER = 2  # times the speed of products in float32 from which on bfloat16 is worth a remark


def find_tokens_per_batch(model: PreTrainedModel) -> int:
    """Find how many tokens a forward pass of this model should have on its device.

    On a CPU this is a constant. On CUDA a probe estimates what fills 60% of the free memory, at most 16,384 tokens.
    The number need not be exact: the engine halves it when memory runs out.
    """
    if model.device.type != "cuda":
        return CPU_TOKENS
    length = min(PROBE_TOKENS, context_length(model.config) or PROBE_TOKENS)
    probe = torch.zeros((PROBE_TOKENS // length, length), dtype=torch.long, device=model.device)
    model.base_model(input_ids=probe)  # allocates what stays: autocast's copies of the weights, workspaces
    free = torch.cuda.mem_get_info(model.device)[0]
    free += torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    before = torch.cuda.memory_allocated(model.device)
    torch.cuda.reset_peak_memory_stats(model.device)
    model.base_model(input_ids=probe)
    bytes_per_token = (torch.cuda.max_memory_allocated(model.device) - before) / probe.numel()
    tokens = affordable_tokens(free, bytes_per_token)
    logger.info("%d tokens per forward pass (%.1f GB free).", tokens, free / 1e9)
    return tokens


def affordable_tokens(free_bytes: float, bytes_per_token: float) -> int:
    """Return the multiple of 512, between 512 and 16,384, that fits 60% of the free memory."""
    tokens = int(SHARE_OF_FREE * free_bytes / bytes_per_token) // PROBE_TOKENS * PROBE_TOKENS
    return min(CUDA_TOKENS, max(PROBE_TOKENS, tokens))


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: in torch, in a CUDA library, or inside compiled code."""
    if should_reduce_batch_size(error):
        return True
    # accelerate looks for whole types and texts. cuBLAS has its own text, and an error of compiled code quotes
    # torch's, or has it as its cause.
    if "CUBLAS_STATUS_ALLOC_FAILED" in str(error) or " out of memory." in str(error):
        return True
    return error.__cause__ is not None and ran_out_of_memory(error.__cause__)


def to_device(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """Copy an array to a device. The host goes on at once: the array must not be changed afterwards."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # without it the host would wait for the device's earlier work
    return tensor.to(device, non_blocking=True)


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the FLOP/s of a large matrix product, the fastest of five: what nothing made of products can exceed."""
    rows = PEAK_ROWS.get(device.type, PEAK_ROWS["cpu"])
    seconds = []
    with torch.no_grad(), full_float32():
        a, b = torch.randn(2, rows, rows, device=device, dtype=dtype)
        for _ in range(PEAK_ROUNDS + 1):  # the first one sets the library up
            _wait_for(device)
            started = time.perf_counter()
            a @ b
            _wait_for(device)
            seconds.append(time.perf_counter() - started)
    return 2.0 * rows**3 / min(seconds[1:])


def describe_float32(device: torch.device, dtype: torch.dtype) -> str | None:
    """Say how much faster bfloat16 is in matrix products than float32; None for another dtype and where it is not.

    On a CPU it is not worth a remark: there products are faster too, but all the rest is slower.
    """
    if dtype != torch.float32 or device.type != "cuda":
        return None
    faster = matmul_peak(device, torch.bfloat16) / matmul_peak(device, dtype)
    if faster < MUCH_FASTER:
        return None
    return (
        f"the scorer computes in float32, and matrix products in bfloat16 are {faster:.0f} times as fast on this "
        "device: `--dtype bfloat16` changes few wins"
    )


def share_of_matmul_peak(
    model: PreTrainedModel, dtype: torch.dtype, tokens_per_second: float, targets_per_token: float
) -> float | None:
    """Return the FLOP/s of a scorer's products with weights / the measured peak of its device.

    Args:
        model: model on its device.
        dtype: dtype of its arithmetic.
        tokens_per_second: forward tokens per second of one process.
        targets_per_token: scored tokens, which alone go through the head, per forward token.

    Returns:
        The share; None where not every weight takes part in each token, and for quantized weights.
    """
    weights = matmul_weights(model)
    if weights is None:
        return None
    body, head = weights
    flops_per_token = 2 * (body + head * targets_per_token)
    return tokens_per_second * flops_per_token / matmul_peak(model.device, dtype)


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
