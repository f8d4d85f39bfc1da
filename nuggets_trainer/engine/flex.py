"""Shared-prefix attention over a whole row in one `flex_attention` call.

For CUDA, where a launch for every piece and layer would cost more than the arithmetic. Rows are filled up to few
lengths, because a kernel is compiled for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from nuggets_trainer.engine.attention import PackedRow, refuse_beyond_sdpa

BLOCK = 128  # rows and keys of a flex attention block
MIN_EARLIER = 512  # keys of earlier rows' prefixes are padded to this times a power of two
GRAPHS = 64  # kernels that may be compiled, by length of row and keys, and by window; a job needs fewer than ten


def flex_row(
    row: PackedRow,
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    kwargs: dict[str, Any],
) -> torch.Tensor:
    """Take the whole row in one `flex_attention` call: the keys of earlier rows' prefixes, then the row's own."""
    refuse_beyond_sdpa(kwargs)
    layer, window = module.layer_idx, kwargs.get("sliding_window")
    earlier = earlier_prefixes(row)
    keys, values = key, value
    if earlier:
        kept = [row.prefixes[prefix].layers[layer] for prefix in earlier]
        num_earlier = sum(k.shape[2] for k, _ in kept)
        padding = key.new_zeros(*key.shape[:2], earlier_keys(num_earlier) - num_earlier, key.shape[3])
        values_padding = value.new_zeros(*value.shape[:2], padding.shape[2], value.shape[3])
        keys = torch.cat([*(k for k, _ in kept), padding, key], dim=2)
        values = torch.cat([*(v for _, v in kept), values_padding, value], dim=2)
    for piece in row.pieces:
        if piece.segment is None:
            span = slice(piece.start, piece.start + piece.length)
            # A copy: a view would keep the whole row's keys and values alive.
            row.prefixes[piece.prefix].layers[layer] = key[:, :, span].clone(), value[:, :, span].clone()
    if window not in row.block_masks:
        row.block_masks[window] = block_mask(row, earlier, keys.shape[2], window, query.device)
    grouped = key.shape[1] != query.shape[1]
    flex = _compiled_flex() if query.is_cuda else cast("Callable[..., torch.Tensor]", flex_attention)
    # Beyond its limit torch would take an unfused kernel, which holds all scores, without an error.
    with torch._dynamo.config.patch(cache_size_limit=GRAPHS):
        output = flex(query, keys, values, block_mask=row.block_masks[window], scale=scaling, enable_gqa=grouped)
    return output.transpose(1, 2)


def row_length(length: int, tokens_per_row: int) -> int:
    """Length that a row is filled up to: budget, half or quarter, in whole blocks; a longer row to whole blocks."""
    for share in (4, 2, 1):
        size = -(-tokens_per_row // share // BLOCK) * BLOCK
        if length <= size:
            return size
    return -(-length // BLOCK) * BLOCK


def earlier_keys(number: int) -> int:
    """Keys that those of earlier rows' prefixes are padded to: 512 times a power of two."""
    size = MIN_EARLIER
    while size < number:
        size *= 2
    return size


@cache
def _compiled_flex() -> Callable[..., torch.Tensor]:
    compiled: Callable[..., torch.Tensor] = torch.compile(flex_attention, dynamic=False)
    return compiled


def earlier_prefixes(row: PackedRow) -> list[int]:
    """List the prefixes that ran in an earlier row and have segments in this one."""
    own = {piece.prefix for piece in row.pieces if piece.segment is None}
    needed = dict.fromkeys(piece.prefix for piece in row.pieces if row.prefixes[piece.prefix].length)
    return [prefix for prefix in needed if prefix not in own]


def block_mask(
    row: PackedRow, earlier: Sequence[int], num_keys: int, window: int | None, device: torch.device
) -> BlockMask:
    """Who sees whom in a row: every piece its prefix and, causally, itself.

    Blocks are found from the pieces' ends on the host: evaluating the mask at every pair of tokens, as
    `create_block_mask` does, takes longer than the attention.
    """
    offset = num_keys - row.length
    occupied = np.zeros((-(-row.length // BLOCK), -(-num_keys // BLOCK)), dtype=np.bool_)
    # Per token: the piece it is in, the piece that is its prefix, its position; -1 and below match nothing.
    own, behind, position = (np.full(row.length, -1, dtype=np.int32) for _ in range(3))
    key_owner, key_position = np.full(num_keys, -2, dtype=np.int32), np.zeros(num_keys, dtype=np.int32)
    prefix_keys: dict[int, tuple[int, int]] = {}
    start = 0
    for prefix in earlier:
        length = row.prefixes[prefix].length
        prefix_keys[prefix] = start, start + length
        key_owner[start : start + length], key_position[start : start + length] = prefix, np.arange(length)
        start += length
    for number, piece in enumerate(row.pieces, start=len(row.prefixes)):
        span = slice(piece.start, piece.start + piece.length)
        is_prefix = piece.segment is None
        first = 0 if is_prefix else row.prefixes[piece.prefix].length
        own[span] = piece.prefix if is_prefix else number
        position[span] = np.arange(first, first + piece.length)
        keys = offset + piece.start, offset + piece.start + piece.length
        if is_prefix:
            prefix_keys[piece.prefix] = keys
        elif first:
            behind[span] = piece.prefix
            _occupy(occupied, span.start, span.stop, *prefix_keys[piece.prefix])
        _occupy(occupied, span.start, span.stop, *keys)
    key_owner[offset:], key_position[offset:] = own, position
    arrays = [torch.from_numpy(a).to(device) for a in (own, behind, position, key_owner, key_position)]
    num_blocks = torch.from_numpy(occupied.sum(axis=1).astype(np.int32)).to(device)
    indices = torch.from_numpy(np.argsort(~occupied, axis=1, kind="stable").astype(np.int32)).to(device)
    return BlockMask.from_kv_blocks(
        num_blocks[None, None],
        indices[None, None],
        BLOCK_SIZE=BLOCK,
        mask_mod=_mask_mod(arrays, window),
        seq_lengths=(row.length, num_keys),
    )


def _occupy(occupied: npt.NDArray[np.bool_], q_start: int, q_stop: int, k_start: int, k_stop: int) -> None:
    occupied[q_start // BLOCK : (q_stop - 1) // BLOCK + 1, k_start // BLOCK : (k_stop - 1) // BLOCK + 1] = True


def _mask_mod(arrays: Sequence[torch.Tensor], window: int | None) -> Callable[..., torch.Tensor]:
    own, behind, position, key_owner, key_position = arrays

    def sees(batch: torch.Tensor, head: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        itself = (own[q] == key_owner[k]) & (key_position[k] <= position[q])
        seen = itself | (behind[q] == key_owner[k])
        return seen if window is None else seen & (position[q] - key_position[k] < window)

    return sees
