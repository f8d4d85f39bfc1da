"""What a run does when it is asked to stop."""

from __future__ import annotations

import logging
import os
import signal

import pytest

from nuggets_trainer.scoring.watch import exit_on_sigterm, logger


@pytest.fixture
def stderr_is_being_written():
    """A handler that fails as Python's own does when a signal interrupts a write to stderr."""

    class Busy(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    handler = Busy()
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)


def test_sigterm_within_a_written_line_ends_the_run_in_order(stderr_is_being_written, capfd):
    with pytest.raises(SystemExit) as left, exit_on_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
    assert left.value.code == 128 + signal.SIGTERM
    assert "SIGTERM: writing what is scored, and leaving with exit code 143." in capfd.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
