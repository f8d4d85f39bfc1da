"""The processes of a run (ranks), and all communication between them except forward passes (`engine/in_step.py`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather, gather_object

T = TypeVar("T")

# Errors that `on_main` raises on every rank as what they were; others become a RuntimeError.
SENT_ERRORS: dict[str, type[Exception]] = {
    error.__name__: error
    for error in (ValueError, TypeError, OSError, FileNotFoundError, PermissionError, NotADirectoryError, ImportError)
}


class OtherRankFailedError(RuntimeError):
    """An error of a rank that cannot go on because another rank failed; that rank's own error says why."""


def joined_state() -> PartialState:
    """Return accelerate's state, in which the processes of a launcher know of each other.

    On a machine without an accelerator, accelerate joins them only if it is told to use the CPU. Each process would
    score the whole pool otherwise, and write the same files.

    Raises:
        ValueError: if accelerate was set up before, with each process alone; the error says how it is done.
    """
    # torchrun and accelerate set both variables; some clusters set WORLD_SIZE alone, for machines.
    num_launched = 1
    if "LOCAL_RANK" in os.environ:
        num_launched = int(os.environ.get("WORLD_SIZE", "1"))
    state = PartialState(cpu=num_launched > 1 and not torch.accelerator.is_available())
    if num_launched > 1 and state.num_processes == 1:
        raise ValueError(
            f"The launcher started {num_launched} processes, but accelerate was set up for one: each would do all the "
            "work alone. Without a GPU, tell accelerate to use the CPU: `--use_cpu true` or `SFTConfig(use_cpu=True)` "
            "in training, `PartialState(cpu=True)` in a script of your own, or ACCELERATE_USE_CPU=true."
        )
    return state


def end_processes() -> None:
    """End the communication of a finished job; left to the interpreter's end, gloo aborts now and then."""
    PartialState().destroy_process_group()


class Ranks:
    """The ranks as the launcher set them up (`accelerate.PartialState`); a single one without a launcher."""

    def __init__(self) -> None:
        self._state = joined_state()

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes results and progress."""
        return bool(self._state.is_main_process)

    def share(self, items: Sequence[T]) -> list[T]:
        """Return this rank's share of a list that all ranks have: every `world`-th item."""
        return list(items[self._state.process_index :: self._state.num_processes])

    def gather(self, items: list[T]) -> list[T]:
        """Return the items of all ranks, in rank order, on every rank. This is also a barrier."""
        if self._state.num_processes == 1:
            return items
        gathered: list[T] = gather_object(items)
        return gathered

    def gather_from(self, function: Callable[[], list[T]]) -> list[T]:
        """Run a function on every rank, and return the items of all ranks, in rank order, on every rank.

        Raises:
            RuntimeError: if the function fails on some rank; all ranks raise it, with the message of the first rank
                that failed. A single process raises the function's own error.
        """
        if self._state.num_processes == 1:
            return function()
        items: list[T] = []
        error = None
        try:
            items = function()
        except Exception as own_error:  # noqa: BLE001 - raised below, on every rank, so that none waits for ever
            error = own_error
        message = None
        if error is not None:
            message = f"rank {self._state.process_index}: {type(error).__name__}: {error}"
        outcomes = gather_object([(items, message)])
        messages = [message for _, message in outcomes if message is not None]
        # The cause comes first: other ranks may have failed only because of it.
        messages.sort(key=lambda message: OtherRankFailedError.__name__ in message)
        if messages:
            raise RuntimeError(messages[0]) from error
        return [item for gathered, _ in outcomes for item in gathered]

    def maximum(self, value: int) -> int:
        """Return the largest value of all ranks, on every rank."""
        if self._state.num_processes == 1:
            return value
        return int(gather(torch.tensor([value], device=self._state.device)).max())

    @property
    def device(self) -> torch.device:
        """Device that this process computes on."""
        device: torch.device = self._state.device
        return device

    @property
    def world(self) -> int:
        """Number of processes."""
        return int(self._state.num_processes)

    def on_main(self, function: Callable[[], T]) -> T:
        """Run a function on the main process, and return its result, or raise its error, on every rank."""
        outcome: list[Any] = [None, None]
        own_error: Exception | None = None
        if self.is_main:
            try:
                outcome[0] = function()
            except Exception as error:  # noqa: BLE001 - raised below, on every rank, so that none waits for ever
                own_error = error
                outcome[1] = (type(error).__name__, str(error))  # not every exception can be sent
        broadcast_object_list(outcome)
        if own_error is not None:
            raise own_error
        if outcome[1] is not None:
            name, message = outcome[1]
            raise SENT_ERRORS.get(name, RuntimeError)(message)
        result: T = outcome[0]
        return result
