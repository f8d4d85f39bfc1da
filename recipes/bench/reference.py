"""What `engine.py` compares the engine with: the research loop, the naive computation, and the floor.

- `ReferenceLoop`: the computation of the method's published research code, written from its description. It scores
  one candidate at a time, expands its key/value cache over batches of anchors that are right-padded to 200 tokens,
  computes logits and a full-vocabulary log-softmax at every position, and calls `.item()` for each row.
- `naive_log_probs`: one sequence at a time, without cache or padding, with a float64 log-softmax.
- `Floor`: a dense forward pass of exactly the useful tokens, and the head on the completion rows only. It computes no
  scores. Nothing that computes all pairs in the same modules needs less work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from shapes import Workload
from transformers import DynamicCache

from nuggets_trainer.engine.portable import cache_argument
from nuggets_trainer.prompts.segment import Segment

MAX_ANCHOR_TOKENS = 200  # the research code cuts and pads anchors here
# Rows and vocabulary entries of the floor's blocks of logits: on CPU the fastest measured (8 MB, which caches hold).
HEAD_BLOCK = {"cpu": (512, 4096), "cuda": (4096, 32_768)}

FloatArray = npt.NDArray[np.float64]


class ReferenceLoop:
    """The research loop on batches of `batch_size` anchors.

    One thing differs from the original: the log-softmax is always in float32, so that the means can be compared.
    """

    def __init__(self, model: Any, batch_size: int) -> None:
        self._model, self._batch_size = model, batch_size

    def __call__(self, work: Workload) -> FloatArray:
        """Return the mean log-prob of each anchor behind the candidate, `(len(work.segments),)`, nats per token."""
        means: list[float] = []
        with torch.inference_mode():
            ids = torch.tensor([work.prefix_ids], device=self._model.device)
            cache = DynamicCache(config=self._model.config)
            self._model(input_ids=ids, use_cache=True, **cache_argument(self._model, cache))
            for first in range(0, len(work.segments), self._batch_size):
                batch = work.segments[first : first + self._batch_size]
                means += self._score_batch(cache, len(work.prefix_ids), batch)
        return np.array(means)

    def _score_batch(self, cache: DynamicCache, prefix_length: int, batch: Sequence[Segment]) -> list[float]:
        ids = torch.zeros(len(batch), MAX_ANCHOR_TOKENS, dtype=torch.long)
        mask = torch.zeros(len(batch), prefix_length + MAX_ANCHOR_TOKENS, dtype=torch.long)
        mask[:, :prefix_length] = 1
        for row, segment in enumerate(batch):
            ids[row, : len(segment.ids)] = torch.tensor(segment.ids)
            mask[row, prefix_length : prefix_length + len(segment.ids)] = 1
        ids, mask = ids.to(self._model.device), mask.to(self._model.device)
        layers = []
        for layer in cache.layers:
            layers.append((layer.keys.expand(len(batch), -1, -1, -1), layer.values.expand(len(batch), -1, -1, -1)))
        expanded = DynamicCache(layers)
        logits = self._model(input_ids=ids, attention_mask=mask, **cache_argument(self._model, expanded)).logits
        log_probs = logits.log_softmax(dim=-1, dtype=torch.float32)
        means = []
        for row, segment in enumerate(batch):
            positions = torch.arange(segment.start - 1, len(segment.ids) - 1, device=ids.device)
            targets = ids[row, segment.start : len(segment.ids)]
            means.append(log_probs[row, positions, targets].mean().item())
        return means


def naive_log_probs(model: Any, work: Workload) -> FloatArray:
    """Return the mean log-prob of each anchor behind the candidate, from one whole sequence at a time.

    The result is `(len(work.segments),)`, nats per token.
    """
    means = []
    with torch.inference_mode():
        for segment in work.segments:
            ids = torch.tensor([work.prefix_ids + segment.ids], device=model.device)
            count = segment.num_completion_tokens
            logits = model(input_ids=ids, use_cache=False).logits[0, -count - 1 : -1]
            targets = ids[0, -count:]
            log_probs = logits.double().log_softmax(dim=-1)
            means.append(log_probs.gather(1, targets[:, None]).mean().item())
    return np.array(means)


class Floor:
    """Dense packed rows of exactly the useful tokens, causal attention inside each row, and the head on completions.

    Args:
        model: model, whose body and head are called as they are.
        rows: number of rows in one forward pass.
        width: largest number of tokens in a row.
    """

    def __init__(self, model: Any, rows: int, width: int) -> None:
        self._model, self._rows, self._width = model, rows, width

    def __call__(self, work: Workload) -> None:
        """Do the work; the computed numbers mean nothing."""
        token_ids, target_ids = list(work.prefix_ids), []
        for segment in work.segments:
            token_ids += segment.ids[:-1]
            target_ids += segment.ids[segment.start :]
        tokens, targets = torch.tensor(token_ids), torch.tensor(target_ids)
        device, total, done = self._model.device, len(tokens), 0
        with torch.inference_mode():
            for rows, width in dense_blocks(total, self._rows, self._width):
                begin = len(targets) * done // total
                end = len(targets) * (done + rows * width) // total
                ids = tokens[done : done + rows * width].reshape(rows, width).to(device)
                hidden = self._model.base_model(input_ids=ids, use_cache=False).last_hidden_state
                self._head(hidden.flatten(0, 1)[: end - begin], targets[begin:end].to(device))
                done += rows * width

    def _head(self, hidden: torch.Tensor, targets: torch.Tensor) -> None:
        weight = self._model.get_output_embeddings().weight
        rows, entries = HEAD_BLOCK[hidden.device.type]
        for h, t in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True):
            blocks = [(h @ block.T).float().logsumexp(dim=-1) for block in torch.split(weight, entries)]
            (h * weight[t]).sum(dim=-1).float() - torch.stack(blocks).logsumexp(dim=0)


def dense_blocks(total: int, rows: int, width: int) -> Iterator[tuple[int, int]]:
    """Cut `total` tokens into rectangles of about `(rows, width)`, without padding.

    One rectangle has one row fewer than the others, and the number of columns that makes the count exact.

    Example:
        >>> list(dense_blocks(2310, rows=4, width=256))
        [(3, 254), (4, 193), (4, 194)]
    """
    if total < rows * width or rows == 1:
        yield 1, total
        return
    odd_width = next(w for w in range(width, 0, -1) if (total - (rows - 1) * w) % rows == 0)
    yield rows - 1, odd_width
    columns = (total - (rows - 1) * odd_width) // rows
    num_blocks = -(-columns // width)
    for block in range(num_blocks):
        yield rows, columns * (block + 1) // num_blocks - columns * block // num_blocks
