"""Rows of the packed path as CUDA graphs: one launch for a row in place of some ten for each of its layers.

A graph reads the same addresses at each replay. So rows of one length share the tensors that are filled anew for each:
token ids, positions, the mask, and the keys and values of the prefix that an earlier row computed. The first row of a
length runs as it is, the second one is captured, and the others are replayed. On a CPU all of them run as they are.

The package does not use it: a small model's host time, which it saves, has not been measured since a compiled layer is
one graph. `gpu.py` measures it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import torch

from nuggets_trainer.engine.attention import BEYOND_FLEX, PackedRow, Prefix, refuse_arguments
from nuggets_trainer.engine.flex import KEY_BLOCK, attend_blocks, earlier_prefixes, mask_of, token_arrays
from nuggets_trainer.engine.packed import pass_row, row_inputs
from nuggets_trainer.engine.packing import BLOCK, Piece, earlier_keys
from nuggets_trainer.prompts.segment import PrefixedSegments


class CapturedRows:
    """Runs rows of flex attention, those of one length in the same tensors.

    Its memory is that of a row, and of the keys and values of all its layers, for each length.
    """

    def __init__(self) -> None:
        self._rows: dict[tuple[int, int], StaticRow] = {}

    @property
    def num_graphs(self) -> int:
        """Number of lengths whose rows are replayed."""
        return sum(row.graph is not None for row in self._rows.values())

    def run(self, model: Any, row: PackedRow, prefixed: Sequence[PrefixedSegments]) -> torch.Tensor:
        """Do what `packed.run_decoder` does; the next row of this length overwrites the result."""
        earlier = earlier_prefixes(row)
        num_earlier = earlier_keys(sum(row.prefixes[prefix].length for prefix in earlier)) if earlier else 0
        key = row.length, num_earlier
        if key not in self._rows:
            self._rows[key] = StaticRow(row, num_earlier, model.device)
        static = self._rows[key]
        static.fill(row, earlier, row_inputs(row, prefixed))
        hidden = static.run(model)
        static.keep_last_prefix(row)
        return hidden


class StaticRow(PackedRow):
    """The tensors of all rows of one length, and the graph that computes on them.

    Args:
        row: first row of this length.
        num_earlier: number of keys of earlier prefixes, padding included.
        device: device of the model.
    """

    def __init__(self, row: PackedRow, num_earlier: int, device: torch.device) -> None:
        length, num_keys = row.length, num_earlier + row.length
        super().__init__([Piece(0, 0, length, 0)], [Prefix(0, length)], static_row, row.implementation)
        self._num_keys, self._num_earlier = num_keys, num_earlier
        blocks = length // BLOCK, -(-num_keys // KEY_BLOCK)
        self.inputs = torch.zeros(2, length, dtype=torch.int64, device=device)
        self.num_blocks = torch.zeros(blocks[0], dtype=torch.int32, device=device)
        self.indices = torch.zeros(blocks, dtype=torch.int32, device=device)
        self.tokens = torch.zeros(3 * length + 2 * num_keys, dtype=torch.int32, device=device)
        self.earlier: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.own: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.graph: torch.cuda.CUDAGraph | None = None
        self._hidden: torch.Tensor | None = None

    def fill(self, row: PackedRow, earlier: Sequence[int], inputs: npt.NDArray[Any]) -> None:
        """Copy what differs between rows; nothing waits for the device."""
        arrays, occupied = token_arrays(row, earlier, self._num_keys)
        num_blocks, indices = occupied.sum(axis=1), (~occupied).argsort(axis=1, kind="stable")
        _put(self.inputs, torch.from_numpy(inputs))
        _put(self.num_blocks, torch.from_numpy(num_blocks).int())
        _put(self.indices, torch.from_numpy(indices).int())
        _put(self.tokens, torch.cat([torch.from_numpy(array) for array in arrays]))
        start = 0
        for prefix in earlier:
            for layer, states in row.prefixes[prefix].layers.items():
                for kept, target in zip(states, self._earlier_of(layer, states), strict=True):
                    target[:, :, start : start + kept.shape[2]].copy_(kept)
            start += row.prefixes[prefix].length

    def _earlier_of(self, layer: int, like: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the room for the keys and values of earlier prefixes in a layer."""
        if layer not in self.earlier:
            keys, values = (x.new_zeros(*x.shape[:2], self._num_earlier, x.shape[3]) for x in like)
            self.earlier[layer] = keys, values
        return self.earlier[layer]

    def run(self, model: Any) -> torch.Tensor:
        """Return the last hidden states of the row that was filled in, `(S, d)`."""
        self.layer = -1
        if self.graph is not None:
            self.graph.replay()
        elif self._hidden is not None and self.inputs.is_cuda:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._hidden = pass_row(model, self, self.inputs)
            self.graph = graph
            graph.replay()
        else:
            self._hidden = pass_row(model, self, self.inputs)
        assert self._hidden is not None
        return self._hidden

    def mask(self, window: int | None) -> Any:
        """Return the mask for a window, made of the tensors that are filled anew."""
        place = window, self.inputs.device
        if place not in self.block_masks:
            lengths = self.length, self._num_keys
            self.block_masks[place] = mask_of(self.num_blocks, self.indices, self.tokens, lengths, window)
        return self.block_masks[place]

    def keep_last_prefix(self, row: PackedRow) -> None:
        """Copy the keys and values of the prefix that the row ends with, for the next row."""
        for piece in row.pieces:
            if piece.segment is None and piece.prefix == row.last_prefix:
                span = slice(piece.start, piece.start + piece.length)
                for layer, (keys, values) in self.own.items():
                    row.prefixes[piece.prefix].layers[layer] = keys[:, :, span].clone(), values[:, :, span].clone()


def static_row(
    row: StaticRow,
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    kwargs: dict[str, Any],
) -> torch.Tensor:
    """Compute a layer of a row in one call of flex attention, on tensors that stay where they are."""
    refuse_arguments(kwargs, BEYOND_FLEX)
    # Copies: compiled layers use the memory of their keys again.
    row.own[row.layer] = key.clone(), value.clone()
    if row.layer in row.earlier:
        keys, values = row.earlier[row.layer]
        key, value = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
    return attend_blocks(query, key, value, row.mask(kwargs.get("sliding_window")), scaling, kwargs)


def _put(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy to a tensor on the device, without waiting for it."""
    if target.is_cuda:
        source = source.pin_memory()
    target.copy_(source, non_blocking=True)
