"""Messages of libraries are written to stderr, each of them once."""

from __future__ import annotations

import logging
import sys

import pytest

from nuggets_trainer.commands.output import log_to_stderr


@pytest.mark.parametrize("has_own_handler", [False, True])
def test_a_message_of_a_library_is_written_once(has_own_handler, monkeypatch, capsys):
    """Each of huggingface_hub's retries without a network was shown twice: its logger has a handler and propagates."""
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.getLogger("nuggets_trainer"), "level", logging.NOTSET)
    log_to_stderr()
    library = logging.getLogger("a_library")
    monkeypatch.setattr(library, "handlers", [logging.StreamHandler(sys.stderr)] if has_own_handler else [])
    logging.getLogger("a_library.http").warning("Retrying in 1s")
    assert capsys.readouterr().err == "Retrying in 1s\n"
