"""The packed path: many prefixes with their segments in rows without padding, through shared-prefix attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from nuggets_trainer.engine.attention import (
    Kernel,
    PackedRow,
    Prefix,
    current_row,
    eager_loop,
    sdpa_loop,
    shared_prefix_model,
)
from nuggets_trainer.engine.flex import flex_row, row_length
from nuggets_trainer.engine.lm_head import segment_means, target_log_probs
from nuggets_trainer.engine.packing import pack
from nuggets_trainer.prompts.segment import PrefixedSegments

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def score_packed(
    model: PreTrainedModel, prefixed: Sequence[PrefixedSegments], tokens_per_batch: int, kernel: Kernel | None = None
) -> list[list[float]]:
    """Mean log-prob of each segment behind its prefix, nats per token.

    Args:
        model: in evaluation mode.
        prefixed: prefixes, each with its segments; several share a row.
        tokens_per_batch: budget of a row.
        kernel: `sdpa_loop`, `eager_loop` or `flex_row`; None for what suits model and device.

    Returns:
        One list per prefix, one value per segment.

    Raises:
        NotImplementedError: if the model's attention cannot be expressed.
    """
    lengths = [[len(s.ids) - 1 for s in segments] for _, segments in prefixed]  # the last token is only ever a target
    prefixes = [Prefix(len(ids), max(own)) for (ids, _), own in zip(prefixed, lengths, strict=True)]
    means: list[list[float]] = [[float("nan")] * len(segments) for _, segments in prefixed]
    with shared_prefix_model(model) as implementation:
        kernel = kernel or _kernel(implementation, model.device)
        for pieces in pack(
            [(len(ids), own) for (ids, _), own in zip(prefixed, lengths, strict=True)], tokens_per_batch
        ):
            row = PackedRow(pieces, prefixes, kernel)
            for (prefix, segment), mean in _score_row(model, row, prefixed, tokens_per_batch):
                means[prefix][segment] = mean
            for finished in prefixes[: pieces[-1].prefix]:
                finished.layers.clear()  # all its segments are through
    return means


def _kernel(implementation: str, device: torch.device) -> Kernel:
    if implementation == "eager":
        return eager_loop
    return flex_row if device.type == "cuda" else sdpa_loop


def _score_row(
    model: PreTrainedModel, row: PackedRow, prefixed: Sequence[PrefixedSegments], tokens_per_batch: int
) -> list[tuple[tuple[int, int], float]]:
    """Mean log-probs of the segments in a row, by position of the prefix and position behind it."""
    ids, positions = _inputs(row, prefixed)
    own_pieces = list(row.pieces)
    if row.kernel is flex_row:
        row.fill_up(row_length(row.length, tokens_per_batch))
    filler = [0] * (row.length - len(ids))
    batch = torch.tensor([ids + filler, positions + filler], device=model.device)
    with current_row(row):
        output = model.base_model(input_ids=batch[:1], position_ids=batch[1:], attention_mask=None, use_cache=False)
    rows: list[int] = []
    targets: list[int] = []
    scored: list[tuple[int, int]] = []
    counts: list[int] = []
    for piece in own_pieces:
        if piece.segment is None:
            continue
        segment = prefixed[piece.prefix][1][piece.segment]
        rows += [piece.start + position - 1 for position in segment.positions]
        targets += segment.targets
        scored.append((piece.prefix, piece.segment))
        counts.append(segment.num_completion_tokens)
    if not scored:
        return []
    index = torch.tensor([rows, targets], device=model.device)
    token_log_probs = target_log_probs(model, output.last_hidden_state[0, index[0]], index[1])
    return list(zip(scored, segment_means(token_log_probs, counts), strict=True))


def _inputs(row: PackedRow, prefixed: Sequence[PrefixedSegments]) -> tuple[list[int], list[int]]:
    """Token ids and positions of a row; positions go on behind the prefix in each segment."""
    ids: list[int] = []
    positions: list[int] = []
    for piece in row.pieces:
        prefix_ids, segments = prefixed[piece.prefix]
        first = 0 if piece.segment is None else len(prefix_ids)
        ids += prefix_ids if piece.segment is None else segments[piece.segment].ids[:-1]
        positions += range(first, first + piece.length)
    return ids, positions
