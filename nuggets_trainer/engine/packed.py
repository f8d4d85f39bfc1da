"""The packed path: many prefixes with their segments in rows without padding, through shared-prefix attention."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from nuggets_trainer.engine.attention import NAME, Kernel, PackedRow, Prefix, current_row, eager_loop, sdpa_loop
from nuggets_trainer.engine.device import to_device
from nuggets_trainer.engine.flex import enough_graphs, flex_row
from nuggets_trainer.engine.lm_head import segment_means, target_log_probs
from nuggets_trainer.engine.model import last_hidden_states
from nuggets_trainer.engine.packing import BLOCK, Piece, pack, row_length
from nuggets_trainer.prompts.segment import PrefixedSegments, Segment

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHECK_TOKENS = 512
RunRow = Callable[["PreTrainedModel", PackedRow, Sequence[PrefixedSegments]], torch.Tensor]


def score_packed(
    model: PreTrainedModel,
    prefixed: Sequence[PrefixedSegments],
    tokens_per_batch: int,
    kernel: Kernel | None = None,
    run_row: RunRow | None = None,
) -> list[list[float]]:
    """Return the mean log-prob of each segment behind its prefix, nats per token.

    Args:
        model: language model in evaluation mode.
        prefixed: prefixes, each with the segments that follow it; several share a row.
        tokens_per_batch: budget of a row, in tokens.
        kernel: `sdpa_loop`, `eager_loop` or `flex_row`; None chooses by model and device.
        run_row: function that runs a row through the decoder; None for `run_decoder`.

    Returns:
        One list per prefix, with one value per segment.

    Raises:
        NotImplementedError: if the model's attention cannot be expressed.
    """
    if not prefixed:
        return []
    lengths: list[tuple[int, list[int]]] = []
    prefixes: list[Prefix] = []
    for prefix_ids, segments in prefixed:
        segment_lengths = [len(s.ids) - 1 for s in segments]  # the last token is a target only
        lengths.append((len(prefix_ids), segment_lengths))
        prefixes.append(Prefix(len(prefix_ids), max(segment_lengths)))
    # The host queues all rows without waiting for the device, and so prepares each while earlier ones compute.
    on_device: list[torch.Tensor] = []
    scored: list[Piece] = []
    with shared_prefix_model(model) as implementation, enough_graphs():
        kernel = kernel or _kernel(implementation, model.device)
        # Rows of flex attention are filled up anyway: only the last one is then short.
        for pieces in pack(lengths, tokens_per_batch, even=kernel is not flex_row):
            row = PackedRow(pieces, prefixes, kernel, implementation)
            own = [piece for piece in pieces if piece.segment is not None]
            if row.kernel is flex_row:
                row.fill_up(row_length(row.length, tokens_per_batch), BLOCK)
            hidden = (run_row or run_decoder)(model, row, prefixed)
            if own:
                on_device.append(_token_log_probs(model, hidden, own, prefixed))
                scored += own
            del hidden  # else the next row would run beside it
            for prefix in prefixes[: row.last_prefix]:
                prefix.layers.clear()  # all its segments are scored
    return _means(torch.cat(on_device), scored, prefixed)


def splitting_tokens(device: torch.device, prefixed: Sequence[PrefixedSegments]) -> int:
    """Return a budget of a row that parts a prefix from some of its segments.

    On CUDA it is not the smallest one: a kernel is compiled for each length of a row.
    """
    if device.type != "cuda":
        return 1
    most = max(len(ids) + sum(len(s.ids) - 1 for s in segments) for ids, segments in prefixed)
    return max(1, min(most - 1, CHECK_TOKENS))


@contextlib.contextmanager
def shared_prefix_model(model: PreTrainedModel) -> Iterator[str]:
    """Switch a model to shared-prefix attention and back.

    Yields:
        Name of the attention implementation that the text model had before.

    Raises:
        NotImplementedError: if its layers do not dispatch through `AttentionInterface`.
    """
    config = model.config
    text_own: str = config.get_text_config()._attn_implementation
    # A model made of several has an implementation for each; a mapping sets all of them back.
    own = {"": config._attn_implementation}
    for name in config.sub_configs:
        own[name] = getattr(config, name)._attn_implementation
    if not model._can_set_attn_implementation():
        raise NotImplementedError(f"{type(model).__name__} does not dispatch its attention")
    model.set_attn_implementation(NAME)
    try:
        yield text_own
    finally:
        model.set_attn_implementation(own if config.sub_configs else own[""])


def _kernel(implementation: str, device: torch.device) -> Kernel:
    if device.type == "cuda":
        return flex_row
    return eager_loop if implementation == "eager" else sdpa_loop


def run_decoder(model: PreTrainedModel, row: PackedRow, prefixed: Sequence[PrefixedSegments]) -> torch.Tensor:
    """Run a row through the model's decoder; return its last hidden states, `(S, d)`."""
    return pass_row(model, row, to_device(row_inputs(row, prefixed), model.device))


def row_inputs(row: PackedRow, prefixed: Sequence[PrefixedSegments]) -> npt.NDArray[np.int64]:
    """Return token ids and positions of a row, `(2, S)`; the positions of a segment continue those of its prefix."""
    inputs = np.zeros((2, row.length), dtype=np.int64)
    ids, positions = inputs
    for piece in row.pieces:
        span = slice(piece.start, piece.start + piece.length)
        first = 0
        if piece.prefix < len(prefixed):  # else it only fills the row
            prefix_ids, segments = prefixed[piece.prefix]
            if piece.segment is None:
                ids[span] = prefix_ids
            else:
                first = len(prefix_ids)
                ids[span] = segments[piece.segment].ids[:-1]
            positions[span] = np.arange(first, first + piece.length)
    return inputs


def pass_row(model: PreTrainedModel, row: PackedRow, inputs: torch.Tensor) -> torch.Tensor:
    """Run the inputs of a row, `(2, S)`, through the model's decoder; return its last hidden states, `(S, d)`."""
    with current_row(row):
        output = model.base_model(input_ids=inputs[:1], position_ids=inputs[1:], attention_mask=None, use_cache=False)
    hidden = last_hidden_states(model, output)
    if hidden is None:
        raise NotImplementedError(f"{type(model).__name__} has no decoder that returns hidden states")
    return hidden[0]


def _token_log_probs(
    model: PreTrainedModel, hidden: torch.Tensor, pieces: Sequence[Piece], prefixed: Sequence[PrefixedSegments]
) -> torch.Tensor:
    """Return the log-probs of all targets of these segments, in order, from their row's hidden states."""
    rows: list[npt.NDArray[np.int64]] = []
    targets: list[npt.NDArray[np.int64]] = []
    for piece in pieces:
        segment = _segment(piece, prefixed)
        rows.append(np.array(segment.positions, dtype=np.int64) + (piece.start - 1))
        targets.append(np.array(segment.targets, dtype=np.int64))
    index = to_device(np.stack([np.concatenate(rows), np.concatenate(targets)]), hidden.device)
    return target_log_probs(model, hidden[index[0]], index[1])


def _segment(piece: Piece, prefixed: Sequence[PrefixedSegments]) -> Segment:
    assert piece.segment is not None
    return prefixed[piece.prefix][1][piece.segment]


def _means(
    token_log_probs: torch.Tensor, pieces: Sequence[Piece], prefixed: Sequence[PrefixedSegments]
) -> list[list[float]]:
    """Return the means of the segments' log-probs by prefix and segment; here the host waits for the device."""
    counts = [_segment(piece, prefixed).num_completion_tokens for piece in pieces]
    means = [[float("nan")] * len(segments) for _, segments in prefixed]
    # To float64 on the host: MPS has none.
    values = token_log_probs.cpu().double().numpy()
    for piece, mean in zip(pieces, segment_means(values, counts), strict=True):
        assert piece.segment is not None
        means[piece.prefix][piece.segment] = float(mean)
    return means
