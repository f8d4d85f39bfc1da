"""The language-model head at completion positions only, in blocks over positions and vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import linear

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Completion positions and vocabulary entries whose float32 logits are held at a time: on the CPU as many as fit its
# caches (8 MB), elsewhere enough to keep the device busy (256 MB).
CPU_BLOCK = (512, 4096)
DEVICE_BLOCK = (4096, 16384)


def target_log_probs(model: PreTrainedModel, hidden: torch.Tensor, targets: torch.Tensor) -> npt.NDArray[np.float64]:
    """Return the log-prob of each target without holding all logits at once.

    It equals `log_softmax(logits)[r, targets[r]]` with `logits` from the model's own head.

    Args:
        model: language model with its head; its config tells how logits are scaled and capped.
        hidden: last hidden states at the positions that predict the targets, `(R, d)`.
        targets: token ids, `(R,)`, on the same device.

    Returns:
        Log-probs, `(R,)`, nats, computed in float32, whatever the dtype of the hidden states.
    """
    blocks = []
    num_rows, num_entries = CPU_BLOCK if hidden.device.type == "cpu" else DEVICE_BLOCK
    for first in range(0, len(targets), num_rows):
        rows = slice(first, first + num_rows)
        blocks.append(_row_log_probs(_logit_blocks(model, hidden[rows], num_entries), targets[rows]))
    # To float64 on the host: MPS has none.
    return torch.cat(blocks).cpu().double().numpy()


def segment_means(token_log_probs: npt.NDArray[np.float64], counts: list[int]) -> npt.NDArray[np.float64]:
    """Return the means of consecutive stretches of `counts` tokens, `(len(counts),)`."""
    starts = np.cumsum([0, *counts[:-1]])
    means: npt.NDArray[np.float64] = np.add.reduceat(token_log_probs, starts) / counts
    return means


def _row_log_probs(logit_blocks: Iterator[torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
    """Return the log-probs of the targets, `(R,)`, from blocks of logits that cover the vocabulary in order."""
    total = targets.new_full(targets.shape, -torch.inf, dtype=torch.float32)  # log of the sum of exp(logits) so far
    found = total  # logits of the targets
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
    # A quantized or adapted head is called whole: its weight cannot be cut into blocks.
    if type(head) is not torch.nn.Linear or not head.weight.is_floating_point():
        yield finish(head(hidden).float())
        return
    for first in range(0, head.weight.shape[0], num_entries):
        rows = slice(first, first + num_entries)
        bias = None if head.bias is None else head.bias[rows]
        yield finish(linear(hidden, head.weight[rows], bias).float())


def _logits_transform(model: PreTrainedModel) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the elementwise function that the model applies to its logits after the head.

    The engine compares the packed path with the model's own logits, so an unknown transform is found there.
    """
    config = model.config.get_text_config()
    factor = getattr(config, "logit_scale", None) or 1.0  # Cohere
    factor /= getattr(config, "logits_scaling", None) or 1.0  # Granite
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma

    def transform(logits: torch.Tensor) -> torch.Tensor:
        if factor != 1.0:
            logits = logits * factor
        if cap is not None:
            logits = torch.tanh(logits / cap) * cap
        return logits

    return transform
