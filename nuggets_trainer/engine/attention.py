"""Shared-prefix attention: each piece of a packed row sees its own prefix and itself, and nothing else.

It is registered with transformers' `AttentionInterface`, so any decoder whose layers dispatch through that interface
runs unmodified, on one row `(1, S)` without an attention mask. The keys and values of a prefix are computed once and
kept, by layer, for the rows that follow.

This module takes the pieces one by one. The keys and values of a segment are written behind those of its prefix, into
room reserved there, so the prefix is never copied. The arithmetic is the model's own `eager` function if the model
runs eager (soft-caps, sinks), else `scaled_dot_product_attention`. `flex.py` takes a whole row at once, for CUDA.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from nuggets_trainer.engine.packing import Piece

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

NAME = "nuggets"
# Arguments of layers that scaled_dot_product_attention and flex attention cannot express, unless they are None.
BEYOND_SDPA = ("softcap", "s_aux", "position_bias")
BEYOND_FLEX = ("position_bias",)

Kernel = Callable[..., torch.Tensor]


class Prefix:
    """Keys and values of one prefix, by layer, with room for the longest segment behind it.

    Args:
        length: number of tokens of the prefix; 0 for none.
        room: number of tokens of the longest segment.

    Attributes:
        layers: keys and values by layer number, each `(1, H, P + room, D)`.
    """

    def __init__(self, length: int, room: int) -> None:
        self.length, self._room = length, room
        self.layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._masks: dict[tuple[int | None, torch.dtype], torch.Tensor] = {}

    def keep(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Store the prefix's own keys and values, `(1, H, P, D)`, with room behind them."""
        self.layers[layer] = self._with_room(key), self._with_room(value)

    def extend(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a segment's keys and values behind the prefix's and return both; the next segment overwrites them."""
        if not self.length:
            return key, value
        end = self.length + key.shape[2]
        keys, values = self.layers[layer]
        keys[:, :, self.length : end] = key
        values[:, :, self.length : end] = value
        return keys[:, :, :end], values[:, :, :end]

    def mask(self, length: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """Return the additive causal mask of a segment behind the prefix, `(1, 1, length, P + length)`."""
        mask = self._masks.get((window, like.dtype))
        if mask is None or mask.shape[2] < length:
            mask = self._masks[window, like.dtype] = causal_mask(self.length, max(self._room, length), window, like)
        return mask[:, :, :length, : self.length + length]

    def _with_room(self, own: torch.Tensor) -> torch.Tensor:
        room = own.new_empty(*own.shape[:2], self.length + self._room, own.shape[3])
        room[:, :, : self.length] = own
        return room


class PackedRow:
    """One packed row while its forward pass runs.

    Args:
        pieces: pieces of the row, in order, without gaps.
        prefixes: prefixes of all rows, by number.
        kernel: `sdpa_loop`, `eager_loop` or `flex_row`.
        implementation: attention of the model as it was loaded: `sdpa`, `eager` or another.

    Attributes:
        last_prefix: number of the prefix that the row ends with: the only one that a later row may go on with.
        block_masks: masks of flex attention, by window and device.
        layer: number of the attention layer that computes, in the order of the pass.
    """

    def __init__(
        self, pieces: Sequence[Piece], prefixes: Sequence[Prefix], kernel: Kernel, implementation: str = "sdpa"
    ) -> None:
        self.pieces, self.prefixes, self.kernel = list(pieces), list(prefixes), kernel
        self.implementation = implementation
        self.last_prefix = self.pieces[-1].prefix
        self.block_masks: dict[tuple[int | None, torch.device], BlockMask] = {}
        self.layer = -1

    @property
    def length(self) -> int:
        """Number of tokens in the row."""
        return self.pieces[-1].start + self.pieces[-1].length

    def attend(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float | None,
        kwargs: dict[str, Any],
    ) -> torch.Tensor:
        """Compute the next attention layer of the pass, `(1, S, H, D)`; see `shared_prefix_attention`."""
        if query.shape[0] != 1 or query.shape[2] != self.length or key.shape[2] != self.length:
            raise NotImplementedError(f"attention over {tuple(query.shape)} in a packed row of {self.length} tokens")
        self.layer += 1
        return self.kernel(self, module, query, key, value, scaling, kwargs)

    def fill_up(self, length: int, block: int) -> None:
        """Add pieces that are never read, so that rows have few different lengths.

        Args:
            length: length of the filled row, in tokens.
            block: tokens after which a piece ends at the latest, so that it attends to little.
        """
        while self.length < length:
            start = self.length
            piece_length = min(length, (start // block + 1) * block) - start
            self.pieces.append(Piece(len(self.prefixes), 0, piece_length, start))
            self.prefixes.append(Prefix(0, piece_length))


_ROW: ContextVar[PackedRow] = ContextVar("packed row")


def shared_prefix_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Compute the attention of one layer over the row in `current_row`, as `AttentionInterface` calls it.

    Args:
        module: the attention layer.
        query: queries, `(1, H, S, D)`.
        key: keys, `(1, H, S, D)`, possibly with fewer heads.
        value: values, shaped like `key`, possibly with another D.
        attention_mask: must be None: the row decides which tokens see each other.
        scaling: factor of the scores; None for `1 / sqrt(D)`.
        kwargs: further arguments of the layer; `sliding_window` is used.

    Returns:
        The output, `(1, S, H, D)`, and None for the attention weights.

    Raises:
        NotImplementedError: if the row cannot express the arguments; the engine then takes a portable path.
    """
    if attention_mask is not None:
        raise NotImplementedError("attention with a mask in a packed row")
    if not torch.compiler.is_compiling():
        return _ROW.get().attend(module, query, key, value, scaling, kwargs), None
    if kwargs.get("position_bias") is not None:
        raise NotImplementedError("attention with `position_bias` in a compiled layer")
    further = [kwargs.get(name) for name in ("sliding_window", "softcap", "s_aux")]
    return torch.ops.nuggets_trainer.attend(query, key, value, scaling, *further), None


AttentionInterface.register(NAME, shared_prefix_attention)


# Pieces and lengths differ in each row, so torch must not look into the row. An operator is the only call that it
# neither looks into nor ends a graph at: a layer in one graph takes the host far less time than one in five.
@torch.library.custom_op(
    "nuggets_trainer::attend",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, float? scaling, int? window, float? softcap, Tensor? sinks) -> Tensor",
)
def _attend_in_row(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    kwargs = {"sliding_window": window, "softcap": softcap, "s_aux": sinks}
    return _ROW.get().attend(None, q, k, v, scaling, kwargs).contiguous()


@_attend_in_row.register_fake
def _shape_of_output(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any) -> torch.Tensor:
    return q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[3])


@contextlib.contextmanager
def current_row(row: PackedRow) -> Iterator[None]:
    """Make this the row that attention layers compute on."""
    token = _ROW.set(row)
    try:
        yield
    finally:
        _ROW.reset(token)


def one_token_row() -> PackedRow:
    """Return the row of a pass whose result nobody reads: one token, which sees itself alone."""
    return PackedRow([Piece(0, 0, 1, 0)], [Prefix(0, 1)], _own_values)


def _own_values(row: PackedRow, module: Any, query: torch.Tensor, _: Any, value: torch.Tensor, *rest: Any) -> Any:
    return value.repeat_interleave(query.shape[1] // value.shape[1], dim=1).transpose(1, 2)


def causal_mask(prefix_length: int, length: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
    """Return an additive mask, `(1, 1, length, prefix_length + length)`, in the dtype and on the device of `like`."""
    queries = torch.arange(prefix_length, prefix_length + length, device=like.device)[:, None]
    keys = torch.arange(prefix_length + length, device=like.device)[None, :]
    seen = keys <= queries
    if window is not None:
        seen &= queries - keys < window
    mask = torch.zeros(seen.shape, dtype=like.dtype, device=like.device)
    return mask.masked_fill_(~seen, torch.finfo(like.dtype).min)[None, None]


def sdpa_loop(row: PackedRow, *args: Any) -> torch.Tensor:
    """Compute a row piece by piece with `scaled_dot_product_attention`."""
    return _loop(_sdpa, row, *args)


def eager_loop(row: PackedRow, *args: Any) -> torch.Tensor:
    """Compute a row piece by piece with the model's own eager function, including its soft-caps or sinks."""
    return _loop(_eager, row, *args)


def _loop(
    attend: Callable[..., torch.Tensor],
    row: PackedRow,
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    kwargs: dict[str, Any],
) -> torch.Tensor:
    layer, window = row.layer, kwargs.get("sliding_window")
    outputs = []
    for piece in row.pieces:
        span = slice(piece.start, piece.start + piece.length)
        q, k, v = query[:, :, span], key[:, :, span], value[:, :, span]
        prefix = row.prefixes[piece.prefix]
        if piece.segment is None:
            prefix.keep(layer, k, v)
            mask = causal_mask(0, piece.length, window, query)
        else:
            k, v = prefix.extend(layer, k, v)
            mask = prefix.mask(piece.length, window, query)
        outputs.append(attend(module, q, k, v, mask, scaling, kwargs))
    return torch.cat(outputs, dim=1)


def _sdpa(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scaling: float | None,
    kwargs: dict[str, Any],
) -> torch.Tensor:
    refuse_arguments(kwargs, BEYOND_SDPA)
    grouped = key.shape[1] != query.shape[1]
    return scaled_dot_product_attention(query, key, value, mask, scale=scaling, enable_gqa=grouped).transpose(1, 2)


def _eager(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scaling: float | None,
    kwargs: dict[str, Any],
) -> torch.Tensor:
    if module is None:
        raise NotImplementedError("a compiled layer with its own eager attention")
    eager_attention_forward = sys.modules[type(module).__module__].eager_attention_forward
    output: torch.Tensor = eager_attention_forward(module, query, key, value, mask, scaling=scaling, **kwargs)[0]
    return output


def refuse_arguments(kwargs: dict[str, Any], names: Sequence[str]) -> None:
    """Refuse arguments of a layer that a kernel cannot express; the layer's own eager function can.

    Raises:
        NotImplementedError: if there is one that is not None.
    """
    for name in names:
        if kwargs.get(name) is not None:
            raise NotImplementedError(f"attention with `{name}`: load the model with `attn_implementation=eager`")
