"""Forward passes of a model whose weights are spread over the ranks (FSDP2, DeepSpeed ZeRO-3).

Each layer of such a model gathers its weights from all ranks in every forward pass, so all ranks must make the same
number of passes, although each has its own amount of work. The ranks therefore agree before each pass. A rank that has
nothing left to score passes a single token through the model until the others are done.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from nuggets_trainer.engine.attention import current_row, one_token_row
from nuggets_trainer.ranks import OtherRankFailedError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from nuggets_trainer.ranks import Ranks

logger = logging.getLogger(__name__)

# What a rank is about to do. Where ranks differ, the largest is done first. The language model gathers other weights
# than its decoder alone, so all ranks must make the same kind of pass.
IDLE, DECODER, WHOLE, FAILED = range(4)


class ForwardPassesInStep:
    """Keeps the forward passes of all ranks in step; does nothing for a model that each rank has whole.

    Args:
        model: the model as the caller has it, possibly wrapped (FSDP2, PEFT).
        base: the language model inside it. Its passes, and those of its decoder alone, are kept in step.
        ranks: the processes.

    Attributes:
        sharded: whether the weights are spread over the ranks.
    """

    def __init__(self, model: torch.nn.Module, base: PreTrainedModel, ranks: Ranks) -> None:
        self._model, self._base, self._ranks = model, base, ranks
        self.sharded = is_sharded(model)
        self._within_pass = False
        self._unfinished = False  # whether the last pass ended in an error

    @contextlib.contextmanager
    def in_step(self) -> Iterator[None]:
        """Allow forward passes on any rank. All ranks must enter; each leaves when the last one is done.

        Raises:
            OtherRankFailedError: if another rank fails meanwhile; that rank raises its own error.
        """
        if not self.sharded:
            yield
            return
        # These hooks run before those that gather weights: a rank must not wait inside a gathering for ranks that
        # have nothing left to pass.
        hooks = []
        for module in (self._base, self._base.base_model):
            hooks.append(module.register_forward_pre_hook(self._before, prepend=True))
            hooks.append(module.register_forward_hook(self._finished))
            hooks.append(module.register_forward_hook(self._left, always_call=True))
        try:
            yield
        except OtherRankFailedError:
            raise
        except BaseException as error:  # Ctrl-C too: the other ranks wait for this one's passes
            if self._unfinished and not isinstance(error, SystemExit):
                # The others are inside the same pass: they would take any message for the weights of a layer.
                logger.exception("A forward pass failed. This process ends, and its launcher ends the others.")
                raise SystemExit(1) from error
            if not self._unfinished:
                self._ranks.maximum(FAILED)
            raise
        else:
            self._wait_for_others()
        finally:
            self._within_pass = False
            for hook in hooks:
                hook.remove()

    def _before(self, module: torch.nn.Module, _: Any) -> None:
        """Agree with all ranks on this pass; join the passes that others make first."""
        if self._within_pass:
            return  # the language model is calling its decoder
        own = WHOLE if module is self._base else DECODER
        while (agreed := self._ranks.maximum(own)) != own:
            self._join_pass(agreed)
        self._within_pass = own == WHOLE
        self._gather_outer_weights()
        self._unfinished = True

    def _finished(self, module: torch.nn.Module, *_: Any) -> None:
        """Note that a pass ended without an error."""
        if module is self._base or not self._within_pass:
            self._unfinished = False

    def _left(self, module: torch.nn.Module, *_: Any) -> None:
        """Note that a pass ended, with or without an error."""
        if module is self._base:
            self._within_pass = False

    def _wait_for_others(self) -> None:
        """Join the passes of the other ranks until all are idle."""
        while (agreed := self._ranks.maximum(IDLE)) != IDLE:
            self._join_pass(agreed)

    def _join_pass(self, agreed: int) -> None:
        """Pass one token through the part of the model that another rank is about to use."""
        if agreed == FAILED:
            raise OtherRankFailedError
        self._gather_outer_weights()
        self._within_pass = True  # the ranks have agreed already: this pass does not synchronise
        self._unfinished = True
        try:
            module = self._base if agreed == WHOLE else self._base.base_model
            # This rank may be inside a packed row of its own, whose attention knows the tokens of that row alone.
            with current_row(one_token_row()):
                _pass_one_token(module, self._ranks.device)
        finally:
            self._within_pass = False
        self._unfinished = False

    def _gather_outer_weights(self) -> None:
        if isinstance(self._model, FSDPModule):
            if self._unfinished:
                self._model.reset_iter_state()  # releases layers that the failed pass left gathered
            self._model.unshard()  # again before each pass: a pass of the whole model releases these weights


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether the weights are spread over the ranks, so that no rank can run the model alone."""
    return isinstance(model, FSDPModule) or _is_zero3(model)


def _is_zero3(model: torch.nn.Module) -> bool:
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


@contextlib.contextmanager
def outer_weights(model: torch.nn.Module, base: PreTrainedModel) -> Iterator[None]:
    """Gather the weights outside the layers (embeddings, last norm, head), which the engine reads directly.

    All ranks must enter. The layers gather their own weights in each pass.

    Args:
        model: the model as the caller has it, possibly wrapped (FSDP2, PEFT).
        base: the language model inside it.

    Raises:
        RuntimeError: if the model is under FSDP2 and torch is too old for that.
    """
    if isinstance(model, FSDPModule):
        if not hasattr(model, "reset_iter_state"):
            raise RuntimeError(
                "Scoring a model under FSDP2 needs a torch that has `FSDPModule.reset_iter_state`, got torch "
                f"{torch.__version__}. Upgrade torch, or score with `nuggets score` in one process or under DDP."
            )
        _pass_one_token(model, base.device)  # this first pass marks `model` as the outermost module
        model.unshard()
        try:
            yield
        finally:
            # Releases the weights and forgets the order of these passes: the backward pass would prefetch by it.
            model.reset_iter_state()
    elif _is_zero3(model):
        from deepspeed import zero

        with zero.GatheredParameters(list(base.get_output_embeddings().parameters())):
            yield
    else:
        yield


def _pass_one_token(model: torch.nn.Module, device: torch.device) -> None:
    with torch.no_grad():
        model(input_ids=torch.zeros(1, 1, dtype=torch.int64, device=device))


def whole_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Return the whole of a weight that is spread over the ranks, and any other tensor as it is.

    All ranks must ask for the same weight.
    """
    if isinstance(tensor, DTensor):
        return tensor.full_tensor()
    if hasattr(tensor, "ds_id"):
        from deepspeed import zero

        with zero.GatheredParameters([tensor]):
            return tensor.detach().clone()
    return tensor


def class_name(model: torch.nn.Module) -> str:
    """Name the model's own class: FSDP2 gives each sharded model a class derived from it."""
    return next(c for c in type(model).__mro__ if not issubclass(c, FSDPModule)).__name__
