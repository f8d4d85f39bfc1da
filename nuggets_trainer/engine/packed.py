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
    """Return the mean log-prob of each segment behind its prefix, nats per token.

    Args:
        model: language model in evaluation mode.
        prefixed: prefixes, each with the segments that follow it; several share a row.
        tokens_per_batch: budget of a row, in tokens.
        kernel: `sdpa_loop`, `eager_loop` or `flex_row`; None chooses by model and device.

    Returns:
        One list per prefix, with one value per segment.

    Raises:
        NotImplementedError: if the model's attention cannot be expressed.
    """
    lengths: list[tuple[int, list[int]]] = []
    prefixes: list[Prefix] = []
    means: list[list[float]] = []
    for prefix_ids, segments in prefixed:
        segment_lengths = [len(s.ids) - 1 for s in segments]  # the last token is a target only
        lengths.append((len(prefix_ids), segment_lengths))
        prefixes.append(Prefix(len(prefix_ids), max(segment_lengths)))
        means.append([float("nan")] * len(segments))
    with shared_prefix_model(model) as implementation:
        kernel = kernel or _kernel(implementation, model.device)
        for pieces in pack(lengths, tokens_per_batch):
            row = PackedRow(pieces, prefixes, kernel)
            for (number, segment), mean in _score_row(model, row, prefixed, tokens_per_batch):
                means[number][segment] = mean
            for prefix in prefixes[: pieces[-1].prefix]:
                prefix.layers.clear()  # all its segments are scored
    return means


def _kernel(implementation: str, device: torch.device) -> Kernel:
    if implementation == "eager":
        return eager_loop
    return flex_row if device.type == "cuda" else sdpa_loop


def _score_row(
    model: PreTrainedModel, row: PackedRow, prefixed: Sequence[PrefixedSegments], tokens_per_batch: int
) -> list[tuple[tuple[int, int], float]]:
    """Return the mean log-probs of the segments in a row, each with the numbers of its prefix and of itself."""
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
    """Return the token ids and positions of a row; each segment's positions continue those of its prefix."""
    ids: list[int] = []
    positions: list[int] = []
    for piece in row.pieces:
        prefix_ids, segments = prefixed[piece.prefix]
        if piece.segment is None:
            first = 0
            ids += prefix_ids
        else:
            first = len(prefix_ids)
            ids += segments[piece.segment].ids[:-1]
        positions += range(first, first + piece.length)
    return ids, positions
