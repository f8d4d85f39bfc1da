"""Scoring with a model whose weights are spread over the ranks (FSDP2, DeepSpeed ZeRO-3). Knows no prompts.

Each layer of such a model gathers its weights from all ranks in every forward pass, so all ranks must make the same
number of passes, while their shares of the work are never the same. So they ask each other before each pass, and a
rank that has nothing left to score passes a single token through until the others are done.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from nuggets_trainer.ranks import OtherRankFailedError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from nuggets_trainer.ranks import Ranks

logger = logging.getLogger(__name__)

# What a rank is about to do; where ranks differ, the largest is done first. The language model gathers other weights
# than its decoder alone, so that all must make the same kind of pass.
IDLE, DECODER, WHOLE, FAILED = range(4)


class ForwardPassesInStep:
    """Keeps the forward passes of all ranks in step; does nothing for a model that each rank has whole.

    Args:
        model: as the job has it.
        base: the language model in it, whose passes (or those of its decoder alone) are counted.
        ranks: the processes of the job.

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
        """Make forward passes on any of the ranks; all ranks must enter, and leave when the last one is done.

        Raises:
            OtherRankFailedError: if another rank fails meanwhile; it raises its own error.
        """
        if not self.sharded:
            yield
            return
        # Before the hooks that gather weights: a rank must not wait for others that have nothing left to pass.
        hooks = []
        for module in (self._base, self._base.base_model):
            hooks.append(module.register_forward_pre_hook(self._before, prepend=True))
            hooks.append(module.register_forward_hook(self._finished))
            hooks.append(module.register_forward_hook(self._left, always_call=True))
        try:
            yield
        except OtherRankFailedError:
            raise
        except BaseException as error:
            if self._unfinished and not isinstance(error, SystemExit):
                # The others are inside the same pass: whatever is asked now, they would take for a layer's weights.
                logger.exception("A forward pass failed; this process ends, and its launcher ends the others.")
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
        if self._within_pass:
            return  # the decoder, called by the language model around it
        own = WHOLE if module is self._base else DECODER
        while (agreed := self._ranks.maximum(own)) != own:
            self._join_pass(agreed)
        self._within_pass = own == WHOLE
        self._gather_outer_weights()
        self._unfinished = True

    def _finished(self, module: torch.nn.Module, *_: Any) -> None:
        if module is self._base or not self._within_pass:
            self._unfinished = False

    def _left(self, module: torch.nn.Module, *_: Any) -> None:
        if module is self._base:
            self._within_pass = False

    def _wait_for_others(self) -> None:
        while (agreed := self._ranks.maximum(IDLE)) != IDLE:
            self._join_pass(agreed)

    def _join_pass(self, agreed: int) -> None:
        """Pass one token through what another rank is about to use."""
        if agreed == FAILED:
            raise OtherRankFailedError
        self._gather_outer_weights()
        self._within_pass = self._unfinished = True  # this pass asks nobody
        try:
            _pass_one_token(self._base if agreed == WHOLE else self._base.base_model, self._ranks.device)
        finally:
            self._within_pass = False
        self._unfinished = False

    def _gather_outer_weights(self) -> None:
        if isinstance(self._model, FSDPModule):
            if self._unfinished:
                self._model.reset_iter_state()  # layers that the failed pass left gathered
            self._model.unshard()  # a pass of the whole model gives them up again


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether the weights are spread over the ranks, so that no rank can run the model alone."""
    return isinstance(model, FSDPModule) or _is_zero3(model)


def _is_zero3(model: torch.nn.Module) -> bool:
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


@contextlib.contextmanager
def outer_weights(model: torch.nn.Module, base: PreTrainedModel) -> Iterator[None]:
    """Gather the weights that belong to no layer (embeddings, last norm, head), which the engine reads by themselves.

    All ranks must enter it. The layers gather their own in each pass.

    Args:
        model: as the job has it.
        base: the language model in it.
    """
    if isinstance(model, FSDPModule):
        if not hasattr(model, "reset_iter_state"):
            raise RuntimeError(
                "Scoring a model under FSDP2 needs a newer torch (with `FSDPModule.reset_iter_state`), this one is "
                f"{torch.__version__}. Upgrade, or score with `nuggets score` in one process or under DDP."
            )
        _pass_one_token(model, base.device)  # tells the layers that they are not the outermost ones
        model.unshard()
        try:
            yield
        finally:
            # Gives the weights up, and forgets the order of these passes: the backward pass would prefetch by it.
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
    """Gather a weight that is spread over the ranks; all of them must ask for it. Any other as it is."""
    if isinstance(tensor, DTensor):
        return tensor.full_tensor()
    if hasattr(tensor, "ds_id"):
        from deepspeed import zero

        with zero.GatheredParameters([tensor]):
            return tensor.detach().clone()
    return tensor


def class_name(model: torch.nn.Module) -> str:
    """Name the model's class; FSDP2 gives each model it shards one of its own."""
    return next(c for c in type(model).__mro__ if not issubclass(c, FSDPModule)).__name__
