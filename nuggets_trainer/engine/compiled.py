"""Elementwise work of a model, fused by torch.compile: norms, feed-forward blocks, and the head's log-sum-exp."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from nuggets_trainer.engine.model import matmul_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Ends of the names of the classes that are compiled.
PIECES = ("RMSNorm", "LayerNorm", "MLP")
# In place of PIECES: whole layers but for their attention, which also fuses rotations and residuals.
WHOLE_LAYERS = ("DecoderLayer", "RMSNorm", "LayerNorm")
# Weights of a layer from which on it is compiled whole. On an H200 whole layers gained 8% for 218M weights and lost
# 19% for 15M, when each was five graphs, which took the host 2 ms for a layer of a row. Now each is one graph, and
# only a GPU can tell whether that moves the limit: `recipes/bench/gpu.py` measures it.
MIN_LAYER_WEIGHTS = 100_000_000
# Compiling takes about half a minute. Fused layers save some microseconds per token on a GPU, but only a tenth of the
# time on a CPU.
MIN_TOKENS = 20_000_000

_IN_USE: ContextVar[bool] = ContextVar("compiled parts are in use", default=False)


def compiling_pays(model: PreTrainedModel, num_tokens: int) -> bool:
    """Whether so many tokens are enough for compilation to pay on the model's device."""
    return model.device.type == "cuda" and num_tokens >= MIN_TOKENS


def parts_to_compile(model: PreTrainedModel) -> tuple[str, ...]:
    """Return the ends of the names of the classes that are compiled: whole layers where these are large.

    Weights that are spread over devices, quantized or divided among experts stay in layers that are not compiled: what
    moves or chooses them runs inside the layer.
    """
    weights = matmul_weights(model)
    num_layers = sum(type(module).__name__.endswith(WHOLE_LAYERS[0]) for module in model.modules())
    on_one_device = len({parameter.device for parameter in model.parameters()}) == 1
    if weights is None or not num_layers or not on_one_device:
        return PIECES
    return WHOLE_LAYERS if weights[0] / num_layers >= MIN_LAYER_WEIGHTS else PIECES


class CompiledParts:
    """The parts of a model that are compiled, once: setting up `torch.compile` takes a millisecond for each module.

    Args:
        model: the model, which stays as it is.
        names: ends of the names of the modules' classes.
    """

    def __init__(self, model: PreTrainedModel, names: tuple[str, ...]) -> None:
        self._modules = [module for module in model.modules() if type(module).__name__.endswith(names)]
        self._calls = []
        for module in self._modules:
            before = module._compiled_call_impl
            module.compile(dynamic=True)
            self._calls.append(module._compiled_call_impl)
            module._compiled_call_impl = before

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Run these parts, and what `compiled_in_use` is asked for, compiled; afterwards as before."""
        before = [module._compiled_call_impl for module in self._modules]
        token = _IN_USE.set(True)
        try:
            for module, call in zip(self._modules, self._calls, strict=True):
                module._compiled_call_impl = call
            yield
        finally:
            _IN_USE.reset(token)
            for module, call in zip(self._modules, before, strict=True):
                module._compiled_call_impl = call


def compiling() -> bool:
    """Whether compiled parts are in use."""
    return _IN_USE.get()


def compiled_in_use(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of the package compiled, where compiled parts are in use, else as it is."""
    return _compiled(function) if compiling() else function


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(function, dynamic=False)
    return compiled
