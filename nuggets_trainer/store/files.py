"""Whole files at a local path or at a URL that fsspec understands (`s3://bucket/x`): bytes in, bytes out.

A place is a path, or a string that may be such a URL. A local file is written under a temporary name, fsynced and
renamed. An object store writes an object whole or not at all, so there a file is written under its own name. Object
stores have no directories. A call that fails on a remote is tried again a few times; a local failure is final.

Remote options (endpoint, credentials) are set as the backend asks: by its environment variables, or in fsspec's
configuration.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import fsspec
from fsspec.registry import known_implementations

from nuggets_trainer.store.remote import call_remote, list_remote

logger = logging.getLogger(__name__)

Place = str | Path
T = TypeVar("T")

LEFTOVER_SECONDS = 24 * 3600  # no write takes so long: a temporary file of this age was left by a process that died
READ_AHEAD = 8  # files that are fetched at once: a remote answers each after some tens of milliseconds
PROBE_BYTES = 4096  # an empty file fits on a full disk


def join(place: Place, *names: str) -> Place:
    """Return the place of something below a place."""
    local = local_path(place)
    if local is not None:
        return local.joinpath(*names)
    return "/".join([str(place).rstrip("/"), *names])


def make_directory(place: Place) -> None:
    """Create a local directory and its parents; do nothing for a URL, because object stores have no directories."""
    local = local_path(place)
    if local is not None:
        local.mkdir(parents=True, exist_ok=True)


def read_bytes(place: Place) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: if the file system reports one; FileNotFoundError if there is no such file.
    """
    local = local_path(place)
    if local is not None:
        return local.read_bytes()
    return bytes(call_remote(place, lambda fs, path: fs.cat_file(path)))


def open_binary(place: Place) -> Any:
    """Open a file that is too large to be read whole.

    Raises:
        OSError: if the file system reports one; FileNotFoundError if there is no such file.
    """
    local = local_path(place)
    if local is not None:
        return local.open("rb")
    return fsspec.open(str(place), "rb").open()


def read_many(places: Sequence[Place]) -> Iterator[tuple[Place, bytes | OSError]]:
    """Yield each file's content, or the error of reading it, in order; up to `READ_AHEAD` files are read at once."""
    pool = ThreadPoolExecutor(READ_AHEAD)
    try:
        waiting: deque[tuple[Place, Future[bytes]]] = deque()
        for number, place in enumerate(places, 1):
            waiting.append((place, pool.submit(read_bytes, place)))
            while len(waiting) == READ_AHEAD or (waiting and number == len(places)):
                first, future = waiting.popleft()
                error = future.exception()
                if isinstance(error, OSError):
                    yield first, error
                else:
                    yield first, future.result()  # raises any other error
    finally:
        pool.shutdown(cancel_futures=True)


def write_atomically(place: Place, content: Any) -> None:
    """Write bytes (or a buffer): readers see the whole file or none. An older file of that name is replaced.

    Raises:
        OSError: if the disk is full or a quota is used up; the error says what to do, and nothing of the file is left.
    """
    if local_path(place) is None:
        whole = bytes(content)
        call_remote(place, lambda fs, path: fs.pipe_file(path, whole))
    else:
        stream_atomically(place, lambda file: file.write(content))


def stream_atomically(place: Place, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file that is too large to be held in memory, as `write_atomically` does.

    Args:
        place: path or URL of the file; for a URL it is made in the system's temporary directory first.
        write: function that writes the content into the open file that it is given.

    Raises:
        OSError: if the disk is full, as in `write_atomically`.
    """
    local = local_path(place)
    if local is None:
        with tempfile.TemporaryDirectory() as directory:
            whole = Path(directory, "content")
            stream_atomically(whole, write)
            call_remote(place, lambda fs, path: fs.put_file(str(whole), path))
        return
    try:
        _write_local(local, write)
    except OSError as error:
        raise explain_full(error, local.parent) from error


def list_directory(place: Place) -> dict[str, bool]:
    """Return the names in a directory and whether each is a file; empty if there is no such directory."""
    local = local_path(place)
    try:
        if local is None:
            return call_remote(place, list_remote)
        with os.scandir(local) as entries:  # unlike `iterdir`, no system call for each file
            return {entry.name: entry.is_file() for entry in entries}
    except FileNotFoundError:
        return {}


def set_aside(place: Place, reason: str, consequence: str) -> None:
    """Rename a file that cannot be used, with `.corrupt` appended, and warn with the reason and the consequence."""
    how = "is set aside with `.corrupt` appended"
    local = local_path(place)
    try:
        if local is not None:
            local.replace(f"{local}.corrupt")
        else:
            call_remote(place, lambda fs, path: fs.mv(path, path + ".corrupt"))
    except FileNotFoundError:
        pass  # another process read the same file and was faster
    except OSError as error:
        how = f"stays where it is, because it cannot be renamed ({error})"
    logger.warning("%s cannot be used: %s. It %s; %s.", place, reason, how, consequence)


def remove_leftovers(directory: Place) -> None:
    """Remove temporary files of a local directory whose writers died a day ago or earlier."""
    local = local_path(directory)
    if local is None:
        return  # on a remote nothing is written under a temporary name
    with contextlib.suppress(OSError):  # cleaning up must not fail, e.g. if another rank has removed the file
        for path in local.glob(".*.tmp"):
            if is_temporary(path.name) and time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
                path.unlink(missing_ok=True)


def is_temporary(name: str) -> bool:
    """Return whether a name is that of a temporary file: one that is being written, or whose writer died."""
    return name.startswith(".") and name.endswith(".tmp")


def check_writable(directory: Place) -> None:
    """Create `directory` if it is not there, and write a file to prove that it can be written to.

    Raises:
        PermissionError, NotADirectoryError: if it cannot be written to; the error says what to do.
        OSError: if the disk is full.
        ImportError, ValueError: if fsspec cannot reach the URL.
    """
    shown = f"`score_dir={str(directory)!r}`"
    try:
        _probe(directory)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(f"{shown} must be a directory: {error}. Name another one.") from error
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and _is_full(error):
            raise
        raise PermissionError(
            f"{shown} must be writable, got: {getattr(error, 'strerror', None) or error}. Scores are stored while "
            "they are computed: name a directory with write access."
        ) from error


def explain_full(error: OSError, directory: Place) -> OSError:
    """Return the error to raise after a write failed: if the disk is full, one that says what to do."""
    if not _is_full(error):
        return error
    return OSError(
        error.errno,
        f"{os.strerror(error.errno or 0)}: {directory} takes no more. The file that did not fit was removed, and "
        "everything that was written before is intact. Make space and run the same command again: it continues there",
    )


def _is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _probe(directory: Place) -> None:
    make_directory(directory)
    local = local_path(directory)
    if local is not None:
        probe = local / f".probe.{uuid.uuid4().hex}.tmp"
        write_atomically(probe, bytes(PROBE_BYTES))
        probe.unlink()
        return
    # One name for all processes: on a remote, a user may have the right to write but not to delete.
    place = join(directory, ".probe")
    write_atomically(place, bytes(PROBE_BYTES))
    with contextlib.suppress(OSError):
        call_remote(place, lambda fs, path: fs.rm_file(path))


def local_path(place: Place) -> Path | None:
    """Return the path of a local place; None for a remote one.

    Raises:
        ValueError: if the place is a URL that was turned into a `Path`.
    """
    protocol, separator, path = str(place).partition("://")
    if separator and protocol in ("file", "local"):
        return Path(path)
    if separator:
        return None
    before, slash, _ = str(place).partition(":/")  # `Path` turns two slashes into one
    if slash and before in known_implementations:
        raise ValueError(f"A URL must be a string, got {place!r}, which was turned into a Path. Pass it as a string.")
    return Path(place)


def _write_local(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:  # also on Ctrl-C no temporary file is left
        with contextlib.suppress(OSError):  # the first error is the one to show
            temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # makes the rename itself durable
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):  # some network file systems have no such call
            raise
    finally:
        os.close(directory)
