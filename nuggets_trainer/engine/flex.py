"""Shared-prefix attention over a whole row in one `flex_attention` call, for CUDA.

There a kernel launch for every piece and layer would cost more than the arithmetic. Rows are filled up to a few
lengths, because a kernel is compiled for each length. Soft-caps (Gemma 2) change the scores inside the kernel. Sinks
(gpt-oss), which take a share of each softmax and give nothing, scale its output afterwards.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from nuggets_trainer.engine.attention import (
    BEYOND_FLEX,
    BEYOND_SDPA,
    Kernel,
    PackedRow,
    eager_loop,
    refuse_arguments,
    sdpa_loop,
)
from nuggets_trainer.engine.device import to_device
from nuggets_trainer.engine.packing import BLOCK, earlier_keys
from nuggets_trainer.engine.precision import autocast_dtype

KEY_BLOCK = 128  # keys in a block: with 64 a row visits a sixth fewer, but on an H200 no call gets faster
GRAPHS = 64  # kernels that may be compiled, one per row length, number of keys and window; fewer than ten are needed
MIN_HEAD_DIM = 16  # below it torch has no CUDA kernel


def flex_row(
    row: PackedRow,
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    kwargs: dict[str, Any],
) -> torch.Tensor:
    """Compute a row in one `flex_attention` call.

    The keys are those of prefixes in earlier rows, padding, and the row's own.

    Raises:
        NotImplementedError: if the model's own attention would not compute the layer's arguments.
    """
    loop = _loop_instead(row, query, value, kwargs)
    if loop is not None:
        return loop(row, module, query, key, value, scaling, kwargs)
    dtype = autocast_dtype(query.device.type)
    if dtype is not None:  # the call would cast them too, but the tiles are chosen and prefixes are kept before it
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    layer, window = row.layer, kwargs.get("sliding_window")
    earlier = earlier_prefixes(row)
    keys, values = key, value
    if earlier:
        kept = [row.prefixes[prefix].layers[layer] for prefix in earlier]
        keys = _with_earlier([prefix_keys for prefix_keys, _ in kept], key)
        values = _with_earlier([prefix_values for _, prefix_values in kept], value)
    for piece in row.pieces:
        if piece.segment is None and piece.prefix == row.last_prefix:
            span = slice(piece.start, piece.start + piece.length)
            # A copy, because a view would keep the keys and values of the whole row alive.
            row.prefixes[piece.prefix].layers[layer] = key[:, :, span].clone(), value[:, :, span].clone()
    # The layers of a model that is spread over devices need a mask on each.
    if (window, query.device) not in row.block_masks:
        row.block_masks[window, query.device] = block_mask(row, earlier, keys.shape[2], window, query.device)
    return attend_blocks(query, keys, values, row.block_masks[window, query.device], scaling, kwargs)


def _loop_instead(row: PackedRow, query: torch.Tensor, value: torch.Tensor, kwargs: dict[str, Any]) -> Kernel | None:
    """Return the kernel that must take the place of flex attention; None where that can compute the layer."""
    is_eager = row.implementation == "eager"
    refused = BEYOND_SDPA if row.implementation == "sdpa" else BEYOND_FLEX
    if is_eager and any(kwargs.get(name) is not None for name in refused):
        return eager_loop
    refuse_arguments(kwargs, refused)
    if query.is_cuda and min(query.shape[-1], value.shape[-1]) < MIN_HEAD_DIM:
        return eager_loop if is_eager else sdpa_loop
    return None


def attend_blocks(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    blocks: BlockMask,
    scaling: float | None,
    kwargs: dict[str, Any],
) -> torch.Tensor:
    """Return the output of flex attention, `(1, S, H, D)`, with the soft-cap and the sinks of the layer."""
    options: dict[str, Any] = {
        "block_mask": blocks,
        "scale": scaling,
        "enable_gqa": keys.shape[1] != query.shape[1],
        "kernel_options": kernel_options(query.dtype, query.shape[-1]),
    }
    if kwargs.get("softcap") is not None:
        options["score_mod"] = _soft_cap(float(kwargs["softcap"]))
    flex = _compiled_flex() if query.is_cuda else cast("Callable[..., Any]", flex_attention)
    sinks: torch.Tensor | None = kwargs.get("s_aux")
    output: torch.Tensor
    if sinks is None:
        output = flex(query, keys, values, **options)
        return output.transpose(1, 2)
    output, further = flex(query, keys, values, **options, **_with_log_sums())
    log_sums: torch.Tensor = getattr(further, "lse", further)
    # The share of the softmax that the sink leaves to the keys.
    share = torch.sigmoid(log_sums - sinks.float()[None, :, None])
    return (output * share[..., None]).to(output.dtype).transpose(1, 2)


@cache
def _soft_cap(cap: float) -> Callable[..., torch.Tensor]:
    """Return the function that caps the scores of flex attention; the same one for all layers."""

    def capped(score: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return cap * torch.tanh(score / cap)

    return capped


@cache
def _with_log_sums() -> dict[str, Any]:
    """Return the argument that asks flex attention for the logarithms of its sums: torch 2.9 renamed it."""
    request = getattr(torch.nn.attention.flex_attention, "AuxRequest", None)
    return {"return_lse": True} if request is None else {"return_aux": request(lse=True)}


def enough_graphs() -> AbstractContextManager[None]:
    """Let torch compile `GRAPHS` kernels: beyond its own limit it takes one that holds all scores in memory."""
    config = torch._dynamo.config
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # its older name
    patch: AbstractContextManager[None] = config.patch({limit: GRAPHS})
    return patch


def kernel_options(dtype: torch.dtype, head_dim: int) -> dict[str, int] | None:
    """Return the sizes of the kernel's tiles where torch's own do not suit; None takes torch's.

    Read off the kernels as compiled for sm_80 to sm_90: torch's tiles keep up to 7 KB of each thread outside registers
    in float32, and in bfloat16 with a head dimension of 256 they do not fit the shared memory of 24 GB cards.
    """
    if dtype == torch.float32:
        return {"BLOCK_M": 32, "BLOCK_N": 32 if head_dim <= 64 else 16, "num_warps": 4, "num_stages": 2}
    if head_dim > 128:
        return {"BLOCK_M": 64, "BLOCK_N": 32, "num_warps": 4, "num_stages": 3}
    if KEY_BLOCK < 128:  # torch's own tiles may have more keys than a block
        return {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 4 if head_dim <= 64 else 8, "num_stages": 3}
    return None


def _with_earlier(kept: list[torch.Tensor], own: torch.Tensor) -> torch.Tensor:
    """Put the keys (or values) of prefixes in earlier rows, and padding, before the row's own."""
    num_earlier = sum(tensor.shape[2] for tensor in kept)
    padding = own.new_zeros(*own.shape[:2], earlier_keys(num_earlier) - num_earlier, own.shape[3])
    return torch.cat([*kept, padding, own], dim=2)


@cache
def _compiled_flex() -> Callable[..., torch.Tensor]:
    compiled: Callable[..., torch.Tensor] = torch.compile(flex_attention, dynamic=False)
    return compiled


def earlier_prefixes(row: PackedRow) -> list[int]:
    """List the prefixes that ran in an earlier row and have segments in this one."""
    own: set[int] = set()
    earlier: dict[int, None] = {}  # in the order of the row's pieces
    for piece in row.pieces:
        if piece.segment is None:
            own.add(piece.prefix)
        elif row.prefixes[piece.prefix].length and piece.prefix not in own:
            earlier[piece.prefix] = None
    return list(earlier)


def block_mask(
    row: PackedRow, earlier: Sequence[int], num_keys: int, window: int | None, device: torch.device
) -> BlockMask:
    """Return the mask of a row: every piece sees its prefix and, causally, itself.

    The blocks are found from the ends of the pieces, on the host. `create_block_mask` evaluates the mask at every
    pair of tokens, which takes longer than the attention.

    Args:
        row: the row.
        earlier: prefixes that ran in an earlier row, by number, in the order of their keys.
        num_keys: number of keys: those of earlier prefixes, padding, and the row's own.
        window: number of keys that a query sees under a sliding window; None without one.
        device: device of the mask.
    """
    arrays, occupied = token_arrays(row, earlier, num_keys)
    num_blocks = to_device(occupied.sum(axis=1).astype(np.int32), device)
    indices = to_device(np.argsort(~occupied, axis=1, kind="stable").astype(np.int32), device)
    # One copy for all arrays.
    tokens = to_device(np.concatenate(arrays), device)
    return mask_of(num_blocks, indices, tokens, (row.length, num_keys), window)


def mask_of(
    num_blocks: torch.Tensor,
    indices: torch.Tensor,
    tokens: torch.Tensor,
    lengths: tuple[int, int],
    window: int | None,
) -> BlockMask:
    """Return the mask of a row from tensors on its device.

    Args:
        num_blocks: number of occupied blocks of keys for each block of queries.
        indices: blocks of keys for each block of queries, the occupied ones first.
        tokens: arrays of `token_arrays`, one after another.
        lengths: number of queries and of keys.
        window: number of keys that a query sees under a sliding window; None without one.
    """
    arrays = torch.split(tokens, [lengths[0]] * 3 + [lengths[1]] * 2)
    return BlockMask.from_kv_blocks(
        num_blocks[None, None],
        indices[None, None],
        BLOCK_SIZE=(BLOCK, KEY_BLOCK),
        mask_mod=_mask_mod(arrays, window),
        seq_lengths=lengths,
        **_forward_only(),
    )


@cache
def _forward_only() -> dict[str, Any]:
    """Leave out the blocks of the backward pass, where torch can: finding them launches some fifteen kernels."""
    known = "compute_q_blocks" in inspect.signature(BlockMask.from_kv_blocks).parameters
    return {"compute_q_blocks": False} if known else {}


def token_arrays(
    row: PackedRow, earlier: Sequence[int], num_keys: int
) -> tuple[list[npt.NDArray[np.int32]], npt.NDArray[np.bool_]]:
    """Describe the tokens of a row for its mask.

    Pieces are numbered: a prefix keeps its number, segments have numbers above those. -1 and -2 match nothing.

    Returns:
        For each query the number of its piece, the number of its prefix and its position; for each key the number of
        its piece and its position; and whether any query of a block sees any key of a block.
    """
    offset = num_keys - row.length  # where the row's own keys begin
    occupied = np.zeros((-(-row.length // BLOCK), -(-num_keys // KEY_BLOCK)), dtype=np.bool_)
    own = np.full(row.length, -1, dtype=np.int32)
    behind = np.full(row.length, -1, dtype=np.int32)
    position = np.full(row.length, -1, dtype=np.int32)
    key_owner = np.full(num_keys, -2, dtype=np.int32)
    key_position = np.zeros(num_keys, dtype=np.int32)
    prefix_keys: dict[int, tuple[int, int]] = {}
    start = 0
    for prefix in earlier:
        end = start + row.prefixes[prefix].length
        prefix_keys[prefix] = start, end
        key_owner[start:end] = prefix
        key_position[start:end] = np.arange(end - start)
        start = end
    for number, piece in enumerate(row.pieces, start=len(row.prefixes)):
        queries = piece.start, piece.start + piece.length
        keys = offset + queries[0], offset + queries[1]
        span = slice(*queries)
        if piece.segment is None:
            first = 0
            own[span] = piece.prefix
            prefix_keys[piece.prefix] = keys
        else:
            first = row.prefixes[piece.prefix].length
            own[span] = number
            if first:
                behind[span] = piece.prefix
                _occupy(occupied, queries, prefix_keys[piece.prefix])
        position[span] = np.arange(first, first + piece.length)
        _occupy_causally(occupied, queries, offset)
    key_owner[offset:], key_position[offset:] = own, position
    return [own, behind, position, key_owner, key_position], occupied


def _occupy(occupied: npt.NDArray[np.bool_], queries: tuple[int, int], keys: tuple[int, int]) -> None:
    """Mark the blocks that contain a pair of these ranges of queries and keys."""
    query_blocks = slice(queries[0] // BLOCK, (queries[1] - 1) // BLOCK + 1)
    key_blocks = slice(keys[0] // KEY_BLOCK, (keys[1] - 1) // KEY_BLOCK + 1)
    occupied[query_blocks, key_blocks] = True


def _occupy_causally(occupied: npt.NDArray[np.bool_], queries: tuple[int, int], offset: int) -> None:
    """Mark the blocks in which a query of a piece sees a key of the piece, up to the diagonal.

    Args:
        occupied: blocks of queries and keys.
        queries: the piece, from its first token to behind its last.
        offset: position of the key of the row's first token.
    """
    start, end = queries
    while start < end:
        block_end = min(end, (start // BLOCK + 1) * BLOCK)
        _occupy(occupied, (start, block_end), (offset + queries[0], offset + block_end))
        start = block_end


def _mask_mod(arrays: Sequence[torch.Tensor], window: int | None) -> Callable[..., torch.Tensor]:
    """Return the function that says whether a query sees a key, from `token_arrays`."""
    own, behind, position, key_owner, key_position = arrays

    def sees(batch: torch.Tensor, head: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        itself = (own[q] == key_owner[k]) & (key_position[k] <= position[q])
        seen = itself | (behind[q] == key_owner[k])
        return seen if window is None else seen & (position[q] - key_position[k] < window)

    return sees
