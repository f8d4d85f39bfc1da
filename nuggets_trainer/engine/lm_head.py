"""The language-model head at completion positions only, in blocks over positions and vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import linear, pad

from nuggets_trainer.engine.compiled import compiled_in_use, compiling
from nuggets_trainer.engine.precision import autocast_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Completion positions and vocabulary entries whose float32 logits are held at a time: on the CPU as many as fit its
# caches (8 MB), elsewhere enough to keep the device busy (256 MB).
CPU_BLOCK = (512, 4096)
DEVICE_BLOCK = (4096, 16384)
# Logits that a head is asked for at a time if it must be called whole.
WHOLE_LOGITS = 2**26
_TORCH_KEEPS_PRODUCTS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 8)  # `out_dtype` of `torch.mm`


def keeps_float32_logits(device: torch.device) -> bool:
    """Whether products of half-precision numbers become float32 logits without being rounded to half precision.

    A rounded logit of 20 is off by up to 0.06 in bfloat16, which flips some wins. On a GPU torch does without it from
    2.8 on, at no cost in products. On a CPU it would take products in float32: 1.7 times the time for Gemma 3 270M.
    """
    return _TORCH_KEEPS_PRODUCTS and device.type == "cuda"


def target_log_probs(model: PreTrainedModel, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the log-prob of each target without holding all logits at once.

    It equals `log_softmax(logits)[r, targets[r]]` with `logits` from the model's own head.

    Args:
        model: language model with its head; its config tells how logits are scaled and capped.
        hidden: last hidden states at the positions that predict the targets, `(R, d)`.
        targets: token ids, `(R,)`, on the same device.

    Returns:
        Log-probs, `(R,)`, nats, in float32, whatever the dtype of the hidden states, on the device of the head.
        Nothing waits for the device.
    """
    head = model.get_output_embeddings()
    if not _can_be_cut(head):
        return _through_whole_head(model, head, hidden, targets)
    # The head of a model that is spread over devices need not be where the last layer is.
    hidden, targets = hidden.to(head.weight.device), targets.to(head.weight.device)
    scale, dtype = _logits_scale(model), autocast_dtype(hidden.device.type)
    if dtype is None:
        return _through_blocks(head, hidden, targets, scale)
    # Autocast would round the logits as well as what is multiplied.
    with torch.autocast(hidden.device.type, enabled=False):
        return _through_blocks(head, hidden.to(dtype), targets, scale)


def _through_blocks(
    head: torch.nn.Linear, hidden: torch.Tensor, targets: torch.Tensor, scale: tuple[float, float | None]
) -> torch.Tensor:
    """Do what `target_log_probs` does in blocks over positions and vocabulary."""
    num_rows, num_entries = CPU_BLOCK if hidden.device.type == "cpu" else DEVICE_BLOCK
    add_block = compiled_in_use(_add_block)
    blocks = []
    for first_row, num_filled in _row_blocks(len(targets), num_rows):
        rows, wanted = hidden[first_row : first_row + num_filled], targets[first_row : first_row + num_filled]
        num_wanted = len(wanted)
        if num_wanted < num_filled:
            rows, wanted = pad(rows, (0, 0, 0, num_filled - num_wanted)), pad(wanted, (0, num_filled - num_wanted))
        total, found = _nothing_seen(wanted)
        for first in range(0, head.weight.shape[0], num_entries):
            entries = slice(first, first + num_entries)
            bias = None if head.bias is None else head.bias[entries]
            total, found = add_block(total, found, rows, head.weight[entries], bias, wanted - first, scale)
        blocks.append((found - total)[:num_wanted])
    return torch.cat(blocks)


def _row_blocks(number: int, num_rows: int) -> list[tuple[int, int]]:
    """Cut rows into blocks: the first row of each, and the number of rows that it is filled up to.

    Code is compiled for each number of rows. So what is left behind the last whole block has blocks of a quarter, and
    only the last of these is filled up.
    """
    if not compiling():
        return [(first, min(num_rows, number - first)) for first in range(0, number, num_rows)]
    quarter = -(-num_rows // 4)
    whole = number // num_rows * num_rows
    blocks = [(first, num_rows) for first in range(0, whole, num_rows)]
    return blocks + [(first, quarter) for first in range(whole, number, quarter)]


def _can_be_cut(head: Any) -> bool:
    """Whether the logits of some entries of the vocabulary can be computed from rows of the weight.

    That of a quantized, adapted or otherwise changed head cannot be cut, and one that is kept on disk is not there.
    """
    return type(head) is torch.nn.Linear and head.weight.is_floating_point() and not head.weight.is_meta


def _through_whole_head(
    model: PreTrainedModel, head: Any, hidden: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Do what `target_log_probs` does by calling the head, on so few rows that their logits need no more memory."""
    num_rows = max(1, WHOLE_LOGITS // model.config.get_text_config().vocab_size)
    blocks = []
    for first_row in range(0, len(targets), num_rows):
        logits = head(hidden[first_row : first_row + num_rows])
        wanted = targets[first_row : first_row + num_rows].to(logits.device)
        total, found = _add_logits(*_nothing_seen(wanted), logits, wanted, _logits_scale(model))
        blocks.append(found - total)
    return torch.cat(blocks)


def segment_means(token_log_probs: npt.NDArray[np.float64], counts: list[int]) -> npt.NDArray[np.float64]:
    """Return the means of consecutive stretches of `counts` tokens, `(len(counts),)`."""
    starts = np.cumsum([0, *counts[:-1]])
    means: npt.NDArray[np.float64] = np.add.reduceat(token_log_probs, starts) / counts
    return means


def _nothing_seen(targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `_add_logits` starts from: no sum of exponentials, and no logit of a target."""
    nothing = targets.new_full(targets.shape, -torch.inf, dtype=torch.float32)
    # Two tensors: code that is compiled for one tensor in two places would be compiled again for two.
    return nothing, nothing.clone()


def _add_block(
    total: torch.Tensor,
    found: torch.Tensor,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    scale: tuple[float, float | None],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Do what `_add_logits` does for the entries of these rows of the head's weight."""
    return _add_logits(total, found, _logits(hidden, weight, bias), targets, scale)


def _logits(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return the logits of some entries, those of half-precision numbers in float32 where that costs little."""
    weight = weight.to(hidden.dtype)
    if hidden.dtype not in (torch.bfloat16, torch.float16) or not keeps_float32_logits(hidden.device):
        return linear(hidden, weight, None if bias is None else bias.to(hidden.dtype))
    if hidden.is_cuda:
        logits = torch.mm(hidden, weight.t(), out_dtype=torch.float32)
    else:
        logits = hidden.float() @ weight.float().t()
    return logits if bias is None else logits + bias.float()


def _add_logits(
    total: torch.Tensor,
    found: torch.Tensor,
    logits: torch.Tensor,
    targets: torch.Tensor,
    scale: tuple[float, float | None],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take a block of the vocabulary into account.

    Args:
        total: log of the sum of exp(logits) of earlier blocks, `(R,)`.
        found: logits of the targets that lie in earlier blocks, `(R,)`.
        logits: logits of the block, as the head gives them, `(R, block)`.
        targets: targets, counted from the first entry of the block, `(R,)`.
        scale: result of `_logits_scale`.

    Returns:
        `total` and `found` with this block.
    """
    logits = _scaled(logits.float(), scale)
    total = torch.logaddexp(total, logits.logsumexp(dim=1))
    inside = (targets >= 0) & (targets < logits.shape[1])
    column = targets.clamp(0, logits.shape[1] - 1)
    return total, torch.where(inside, logits.gather(1, column[:, None]).squeeze(1), found)


def _logits_scale(model: PreTrainedModel) -> tuple[float, float | None]:
    """Return factor and soft-cap that the model applies to its logits after the head; None without a cap.

    The engine compares the packed path with the model's own logits, so an unknown transform is found there.
    """
    config = model.config.get_text_config()
    factor = getattr(config, "logit_scale", None) or 1.0  # Cohere
    factor /= getattr(config, "logits_scaling", None) or 1.0  # Granite
    return factor, getattr(config, "final_logit_softcapping", None)  # Gemma


def _scaled(logits: torch.Tensor, scale: tuple[float, float | None]) -> torch.Tensor:
    factor, cap = scale
    if factor != 1.0:
        logits = logits * factor
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits
