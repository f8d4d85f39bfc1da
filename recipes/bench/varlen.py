"""Shared-prefix attention by flash attention with variable lengths: what flex attention competes with on a GPU.

Each piece of a row is a sequence of queries, and its keys are those of its prefix and its own. A causal mask of flash
attention ends in the lower right corner, so one call computes a whole row. It needs no compilation, no mask and no
filler. It copies each prefix once for each of its segments: with 100 anchors, about 1.4 keys more for each token.

The package does not use it: on an H200 a call of an 8B model takes 1% less time with it. `gpu.py` measures both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import scaled_dot_product_attention

from nuggets_trainer.engine.attention import BEYOND_SDPA, PackedRow, causal_mask, refuse_arguments
from nuggets_trainer.engine.device import to_device
from nuggets_trainer.engine.flex import earlier_prefixes


@dataclass(frozen=True, eq=False)
class Sequences:
    """The pieces of a row as sequences.

    Attributes:
        earlier: prefixes that ran in an earlier row, whose keys come first.
        keys: positions of the keys of all sequences, one after another, on the device.
        query_ends: end of each sequence in the row, from 0 on.
        key_ends: end of each sequence in `keys`, from 0 on.
        on_device: both ends, on the device.
    """

    earlier: list[int]
    keys: torch.Tensor
    query_ends: npt.NDArray[np.int32]
    key_ends: npt.NDArray[np.int32]
    on_device: tuple[torch.Tensor, torch.Tensor]


_OF_ROW: WeakKeyDictionary[PackedRow, Sequences] = WeakKeyDictionary()  # the same for all layers


def varlen_row(
    row: PackedRow,
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    kwargs: dict[str, Any],
) -> torch.Tensor:
    """Compute a row in one call of flash attention, in half precision; on a CPU sequence by sequence, for tests.

    Raises:
        NotImplementedError: if flash attention cannot express the layer's arguments.
    """
    refuse_arguments(kwargs, BEYOND_SDPA)
    if row not in _OF_ROW:
        _OF_ROW[row] = _sequences(row, query.device)
    sequences = _OF_ROW[row]
    kept = [row.prefixes[prefix].layers[row.layer] for prefix in sequences.earlier]
    keys = torch.cat([*(prefix_keys for prefix_keys, _ in kept), key], dim=2)
    values = torch.cat([*(prefix_values for _, prefix_values in kept), value], dim=2)
    for piece in row.pieces:
        if piece.segment is None and piece.prefix == row.last_prefix:
            span = slice(piece.start, piece.start + piece.length)
            own = key[:, :, span].clone(), value[:, :, span].clone()
            row.prefixes[piece.prefix].layers[row.layer] = own
    # (1, H, S, D) -> (S, H, D)
    q = query[0].transpose(0, 1)
    k = keys[0].transpose(0, 1).index_select(0, sequences.keys)
    v = values[0].transpose(0, 1).index_select(0, sequences.keys)
    scale = 1 / math.sqrt(q.shape[-1]) if scaling is None else scaling
    attend = _flash if q.is_cuda else _one_by_one
    return attend(q, k, v, sequences, scale, kwargs.get("sliding_window"))[None]


def _sequences(row: PackedRow, device: torch.device) -> Sequences:
    earlier = earlier_prefixes(row)
    start_of: dict[int, int] = {}
    num_earlier = 0
    for prefix in earlier:
        start_of[prefix] = num_earlier
        num_earlier += row.prefixes[prefix].length
    keys: list[npt.NDArray[np.int64]] = []
    query_lengths, key_lengths = [0], [0]
    for piece in row.pieces:
        own = num_earlier + piece.start
        prefix_length = 0
        if piece.segment is None:
            start_of[piece.prefix] = own
        else:
            prefix_length = row.prefixes[piece.prefix].length
        if prefix_length:
            keys.append(start_of[piece.prefix] + np.arange(prefix_length))
        keys.append(own + np.arange(piece.length))
        query_lengths.append(piece.length)
        key_lengths.append(prefix_length + piece.length)
    query_ends = np.cumsum(query_lengths, dtype=np.int32)
    key_ends = np.cumsum(key_lengths, dtype=np.int32)
    on_device = to_device(query_ends, device), to_device(key_ends, device)
    return Sequences(earlier, to_device(np.concatenate(keys), device), query_ends, key_ends, on_device)


def _flash(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sequences: Sequences, scale: float, window: int | None
) -> torch.Tensor:
    """Return the output `(S, H, D)` of the kernel that torch has built in."""
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise NotImplementedError(f"flash attention in {q.dtype}")
    longest = int(np.diff(sequences.query_ends).max()), int(np.diff(sequences.key_ends).max())
    windows = {} if window is None else {"window_size_left": window - 1, "window_size_right": 0}
    flash = torch.ops.aten._flash_attention_forward
    arguments = (*sequences.on_device, *longest, 0.0, window is None, False)
    k, v = k.to(q.dtype), v.to(q.dtype)
    try:
        output: torch.Tensor = flash(q, k, v, *arguments, scale=scale, **windows)[0]
    except RuntimeError:
        if k.shape[1] == q.shape[1]:
            raise
        # Some builds want as many heads of keys as of queries.
        heads = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(heads, dim=1), v.repeat_interleave(heads, dim=1)
        output = flash(q, k, v, *arguments, scale=scale, **windows)[0]
    return output


def _one_by_one(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sequences: Sequences, scale: float, window: int | None
) -> torch.Tensor:
    """Do what `_flash` does, one sequence at a time."""
    outputs = []
    for i in range(len(sequences.query_ends) - 1):
        queries = slice(*sequences.query_ends[i : i + 2].tolist())
        keys = slice(*sequences.key_ends[i : i + 2].tolist())
        own_q, own_k, own_v = (x.transpose(0, 1)[None] for x in (q[queries], k[keys], v[keys]))
        length, num_keys = own_q.shape[2], own_k.shape[2]
        mask = causal_mask(num_keys - length, length, window, q)
        grouped = q.shape[1] != k.shape[1]
        output = scaled_dot_product_attention(own_q, own_k, own_v, mask, scale=scale, enable_gqa=grouped)
        outputs.append(output[0].transpose(0, 1))
    return torch.cat(outputs)
