"""The language-model head on completion rows only, in blocks over rows and vocabulary. Knows tensors, not prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import linear

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Completion positions and entries of the vocabulary whose float32 logits are held at a time, whatever the model: on
# the CPU as much as stays in its caches (8 MB), elsewhere enough to keep the device busy (256 MB).
CPU_BLOCK = (512, 4096)
DEVICE_BLOCK = (4096, 16384)


def target_log_probs(model: PreTrainedModel, hidden: torch.Tensor, targets: torch.Tensor) -> npt.NDArray[np.float64]:
    """Log-prob of each target under the head's distribution, without ever holding all logits.

    Args:
        model: gives the head, and from its config what becomes of the logits (scale, soft-cap).
        hidden: last hidden states at the positions that predict the targets, `(R, d)`.
        targets: token ids, `(R,)`, on the same device.

    Returns:
        `(R,)`, nats. Each is computed in float32, whatever the dtype of the hidden states.
    """
    blocks = []
    num_rows, num_entries = CPU_BLOCK if hidden.device.type == "cpu" else DEVICE_BLOCK
    for first in range(0, len(targets), num_rows):
        rows = slice(first, first + num_rows)
        blocks.append(_row_log_probs(_logit_blocks(model, hidden[rows], num_entries), targets[rows]))
    # To float64 on the host: MPS has none.
    return torch.cat(blocks).cpu().double().numpy()


def segment_means(token_log_probs: npt.NDArray[np.float64], counts: list[int]) -> npt.NDArray[np.float64]:
    """Mean of consecutive stretches of `counts` tokens, `(len(counts),)`."""
    means: npt.NDArray[np.float64] = np.add.reduceat(token_log_probs, np.cumsum([0, *counts[:-1]])) / counts
    return means


def _row_log_probs(logit_blocks: Iterator[torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
    total = targets.new_full(targets.shape, -torch.inf, dtype=torch.float32)
    found = total
    first = 0
    for logits in logit_blocks:
        total = torch.logaddexp(total, logits.logsumexp(dim=1))
        inside = (targets >= first) & (targets < first + logits.shape[1])
        column = (targets - first).clamp(0, logits.shape[1] - 1)
        found = torch.where(inside, logits.gather(1, column[:, None]).squeeze(1), found)
        first += logits.shape[1]
    return found - total


def _logit_blocks(model: PreTrainedModel, hidden: torch.Tensor, num_entries: int) -> Iterator[torch.Tensor]:
    """Yield the float32 logits of consecutive blocks of the vocabulary, each `(R, block)`."""
    head, finish = model.get_output_embeddings(), _logits_transform(model)
    # A quantized or adapted head is called whole: its weight cannot be cut.
    if type(head) is not torch.nn.Linear or not head.weight.is_floating_point():
        yield finish(head(hidden).float())
        return
    for first in range(0, head.weight.shape[0], num_entries):
        rows = slice(first, first + num_entries)
        bias = None if head.bias is None else head.bias[rows]
        yield finish(linear(hidden, head.weight[rows], bias).float())


def _logits_transform(model: PreTrainedModel) -> Callable[[torch.Tensor], torch.Tensor]:
    """Give what the model does to its logits after the head, elementwise; the engine's self-check holds it to that."""
    config = model.config.get_text_config()
    factor = getattr(config, "logit_scale", None) or 1.0  # Cohere
    factor /= getattr(config, "logits_scaling", None) or 1.0  # Granite
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma

    def transform(logits: torch.Tensor) -> torch.Tensor:
        logits = logits if factor == 1.0 else logits * factor
        return logits if cap is None else torch.tanh(logits / cap) * cap

    return transform
