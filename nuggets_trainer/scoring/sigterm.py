"""An orderly end of scoring when the process is told to stop."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from typing import Any

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM (preemption, a time limit) into an orderly exit with code 143, after which launchers try again.

    By default the signal ends a process on the spot; here all open context managers are left first, so that what is
    scored is written. Outside the main thread, where no handler can be set, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: Any) -> None:
        signal.signal(
            signal.SIGTERM, signal.SIG_IGN
        )  # launchers send it twice; the second one must not interrupt the exit
        logger.warning("SIGTERM: writing what is scored, and leaving with exit code %d.", 128 + number)
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
