"""The processes of one job and every collective between them. Knows nothing of what they exchange."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather, gather_object

T = TypeVar("T")


SENT_ERRORS: dict[str, type[Exception]] = {
    error.__name__: error
    for error in (ValueError, TypeError, OSError, FileNotFoundError, PermissionError, NotADirectoryError, ImportError)
}


class OtherRankFailedError(RuntimeError):
    """Raised where a rank cannot go on because another one failed, whose own error says why."""


class Ranks:
    """A thin view of `accelerate.PartialState`, as the launcher set it up; one process without a launcher."""

    def __init__(self) -> None:
        self._state = PartialState()

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes results and progress."""
        return bool(self._state.is_main_process)

    def share(self, items: Sequence[T]) -> list[T]:
        """Take this rank's part of a list that all ranks have: every `world`-th item."""
        return list(items[self._state.process_index :: self._state.num_processes])

    def gather(self, items: list[T]) -> list[T]:
        """All ranks' items, in rank order, on every rank. Also a barrier."""
        if self._state.num_processes == 1:
            return items
        gathered: list[T] = gather_object(items)
        return gathered

    def gather_from(self, function: Callable[[], list[T]]) -> list[T]:
        """Run on every rank and give all of them all items, in rank order, or raise the first rank's error on all."""
        if self._state.num_processes == 1:
            return function()
        items: list[T] = []
        error = None
        try:
            items = function()
        except Exception as own_error:  # noqa: BLE001 - raised below, on every rank, so that none waits for ever
            error = own_error
        place = f"rank {self._state.process_index}"
        told = gather_object([(items, None if error is None else f"{place}: {type(error).__name__}: {error}")])
        messages = [message for _, message in told if message is not None]
        # What the others raise on account of one rank's failure says nothing.
        messages.sort(key=lambda message: OtherRankFailedError.__name__ in message)
        if messages:
            raise RuntimeError(messages[0]) from error
        return [item for gathered, _ in told for item in gathered]

    def maximum(self, value: int) -> int:
        """Largest value of all ranks, on every rank."""
        if self._state.num_processes == 1:
            return value
        return int(gather(torch.tensor([value], device=self._state.device)).max())

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        device: torch.device = self._state.device
        return device

    @property
    def world(self) -> int:
        """Number of processes."""
        return int(self._state.num_processes)

    def on_main(self, function: Callable[[], T]) -> T:
        """Run on the main process and give every rank its result, or raise its error on every rank."""
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
