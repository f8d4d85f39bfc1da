"""The result of a command on stdout, once, from the main process; logs on stderr."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    _TextHandler = logging.StreamHandler[TextIO]
else:
    _TextHandler = logging.StreamHandler  # on Python 3.10 it takes no type


@contextlib.contextmanager
def stdout_kept_for_result() -> Iterator[TextIO]:
    """Redirect what libraries print to stderr, and yield the real stdout."""
    stdout = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        yield stdout


def write_result(stdout: TextIO, result: dict[str, object], text: str, as_json: bool) -> None:
    """Print the result as one JSON object, or as text for people."""
    if rank() == 0:
        print(json.dumps(result) if as_json else text, file=stdout, flush=True)


@contextlib.contextmanager
def printed_instead(logger: logging.Logger, printed: bool) -> Iterator[None]:
    """Silence a logger below WARNING while its lines are printed on stdout: a terminal would show them twice."""
    level = logger.level
    if printed:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def rank() -> int:
    """Return the number of this process among those that a launcher started."""
    return int(os.environ.get("RANK", "0"))


class _Stderr(_TextHandler):
    """Writes to whatever `sys.stderr` is when a line is logged: a live display replaces it, to print above itself."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        raise AttributeError("the stream is always sys.stderr")

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, unless its library has written it: huggingface_hub has a handler and propagates too."""
        library: logging.Logger | None = logging.getLogger(record.name)
        while library is not None and library is not logging.root:
            if any(_writes_to_console(handler) for handler in library.handlers):
                return
            library = library.parent
        super().emit(record)


def _writes_to_console(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)


def log_to_stderr() -> None:
    """Show the package's messages as plain lines, and those of other libraries from WARNING on."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(_Stderr())
    logging.getLogger("nuggets_trainer").setLevel(logging.INFO)
