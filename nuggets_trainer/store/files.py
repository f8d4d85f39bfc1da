"""Whole files at a local path or at a URL that fsspec understands (`s3://bucket/x`). Knows nothing of what is in them.

A place is a path, or a string that may be such a URL. A local file is written under a temporary name, fsynced and
renamed; an object store puts an object whole or not at all, so there it is written under its own name. Object stores
have no directories. What fails on a remote is tried again a few times; what fails locally will fail again.

Remote options (endpoint, credentials) are those of the backend: its environment variables, or fsspec's configuration.
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

logger = logging.getLogger(__name__)

Place = str | Path
T = TypeVar("T")

PAUSES = (1.0, 4.0, 16.0)  # seconds before a failed remote call is tried again; the backends retry within seconds too
LEFTOVER_SECONDS = 24 * 3600  # no write takes so long: a temporary file of this age was left by a process that died
READ_AHEAD = 8  # files on their way at once: a remote answers each after some tens of milliseconds
PROBE_BYTES = 4096  # an empty file fits on a full disk

# What will not be better a moment later.
LASTING = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    ImportError,
    NotImplementedError,
    TypeError,
    ValueError,
)


def join(place: Place, *names: str) -> Place:
    """Return the place of something below a place."""
    local = local_path(place)
    return local.joinpath(*names) if local is not None else "/".join([str(place).rstrip("/"), *names])


def make_directory(place: Place) -> None:
    """Create a local directory and those above it; object stores have none."""
    local = local_path(place)
    if local is not None:
        local.mkdir(parents=True, exist_ok=True)


def read_bytes(place: Place) -> bytes:
    """Return what is in a file.

    Raises:
        OSError: as the file system gives it; FileNotFoundError if there is no such file.
    """
    local = local_path(place)
    return local.read_bytes() if local is not None else bytes(_remote(place, lambda fs, path: fs.cat_file(path)))


def open_binary(place: Place) -> Any:
    """Open a file that is too large to be read whole.

    Raises:
        OSError: as the file system gives it; FileNotFoundError if there is no such file.
    """
    local = local_path(place)
    return local.open("rb") if local is not None else fsspec.open(str(place), "rb").open()


def read_many(places: Sequence[Place]) -> Iterator[tuple[Place, bytes | OSError]]:
    """Yield what is in each file, or the error that reading it gave, in order; some are read ahead of their turn."""
    pool = ThreadPoolExecutor(READ_AHEAD)
    try:
        waiting: deque[tuple[Place, Future[bytes]]] = deque()
        for number, place in enumerate(places, 1):
            waiting.append((place, pool.submit(read_bytes, place)))
            while len(waiting) == READ_AHEAD or (waiting and number == len(places)):
                first, future = waiting.popleft()
                error = future.exception()
                if error is not None and not isinstance(error, OSError):
                    raise error
                yield first, future.result() if error is None else error
    finally:
        pool.shutdown(cancel_futures=True)


def write_atomically(place: Place, content: Any) -> None:
    """Write bytes (or a buffer): readers see the whole file or none; an older file of that name is replaced.

    Raises:
        OSError: if the disk is full or a quota is used up, with what to do; nothing of the file is left behind.
    """
    if local_path(place) is None:
        whole = bytes(content)
        _remote(place, lambda fs, path: fs.pipe_file(path, whole))
    else:
        stream_atomically(place, lambda file: file.write(content))


def stream_atomically(place: Place, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file that is too large to be held in memory, as `write_atomically` does.

    Args:
        place: of the file; one behind a URL is made in the system's temporary directory first.
        write: writes the content into the open file that it is given.

    Raises:
        OSError: as `write_atomically`.
    """
    local = local_path(place)
    if local is None:
        with tempfile.TemporaryDirectory() as directory:
            whole = Path(directory, "content")
            stream_atomically(whole, write)
            _remote(place, lambda fs, path: fs.put_file(str(whole), path))
        return
    try:
        _write_local(local, write)
    except OSError as error:
        raise explain_full(error, local.parent) from error


def list_directory(place: Place) -> dict[str, bool]:
    """Return the names in a directory, each with whether it is a file; empty if there is no such directory."""
    local = local_path(place)
    try:
        if local is not None:
            with os.scandir(local) as entries:  # unlike `iterdir`, no system call for each file
                return {entry.name: entry.is_file() for entry in entries}
        return _remote(place, _list_remote)
    except FileNotFoundError:
        return {}


def set_aside(place: Place, reason: str, consequence: str) -> None:
    """Move a file that cannot be used to its name with `.corrupt` appended, and say why and what follows."""
    how = "is set aside with `.corrupt` appended"
    local = local_path(place)
    try:
        if local is not None:
            local.replace(f"{local}.corrupt")
        else:
            _remote(place, lambda fs, path: fs.mv(path, path + ".corrupt"))
    except FileNotFoundError:
        pass  # another process read the same file and was faster
    except OSError as error:
        how = f"stays where it is, as it cannot be renamed ({error})"
    logger.warning("%s cannot be used: %s. It %s; %s.", place, reason, how, consequence)


def remove_leftovers(directory: Place) -> None:
    """Remove the temporary files that writers left in a local directory when they died, a day ago or longer."""
    local = local_path(directory)
    if local is None:
        return  # nothing is written under a temporary name there
    with contextlib.suppress(OSError):  # tidying up is no reason to fail, e.g. over a file that another rank removed
        for path in local.glob(".*.tmp"):
            if is_temporary(path.name) and time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
                path.unlink(missing_ok=True)


def is_temporary(name: str) -> bool:
    """Return whether a file of this name is one that is being written, or was when its writer died."""
    return name.startswith(".") and name.endswith(".tmp")


def check_writable(directory: Place) -> None:
    """Create `directory` if it is not there and prove by writing a file that it takes one.

    Raises:
        PermissionError, NotADirectoryError: with what to do.
        OSError: if the disk is full.
        ImportError, ValueError: if fsspec has no way to reach the URL.
    """
    shown = f"`score_dir={str(directory)!r}`"
    try:
        _probe(directory)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(f"{shown} is not a directory: {error}.") from error
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and _is_full(error):
            raise
        raise PermissionError(
            f"{shown} cannot be written to ({getattr(error, 'strerror', None) or error}). Scores are stored while "
            "they are computed; point `score_dir` at a directory with write access."
        ) from error


def explain_full(error: OSError, directory: Place) -> OSError:
    """Return the error to raise for one that a write gave: with what to do if the disk is full, else as it is."""
    if not _is_full(error):
        return error
    return OSError(
        error.errno,
        f"{os.strerror(error.errno or 0)}: {directory} takes no more. Nothing was left of the file that did not fit, "
        "and all that was written before is intact. Make space and run the same command again: it goes on from there",
    )


def _is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _probe(directory: Place) -> None:
    make_directory(directory)
    local = local_path(directory)
    # One name for all on a remote, where a user may have the right to write and not to delete.
    probe = join(directory, ".probe" if local is None else f".probe.{uuid.uuid4().hex}.tmp")
    write_atomically(probe, bytes(PROBE_BYTES))
    if local is None:
        with contextlib.suppress(OSError):
            _remote(probe, lambda fs, path: fs.rm_file(path))
    else:
        Path(probe).unlink()


def local_path(place: Place) -> Path | None:
    """Return the path of a local place, None for a remote one.

    Raises:
        ValueError: for a URL that was made a `Path`.
    """
    protocol, separator, path = str(place).partition("://")
    if separator:
        return Path(path) if protocol in ("file", "local") else None
    before, slash, _ = str(place).partition(":/")  # `Path` makes one slash of two
    if slash and before in known_implementations:
        raise ValueError(f"{place!r} is a URL that was made a Path; give it as a string.")
    return Path(place)


def _write_local(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:  # Ctrl-C leaves no temporary file either; it is raised on
        with contextlib.suppress(OSError):  # the first error is the one to see
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


def _list_remote(fs: Any, path: str) -> dict[str, bool]:
    entries = {entry["name"].rstrip("/"): entry["type"] == "file" for entry in fs.ls(path, detail=True)}
    # S3 lists an empty object that marks the directory as one of its entries.
    return {name.rsplit("/", 1)[-1]: is_file for name, is_file in entries.items() if name != path.rstrip("/")}


def _remote(place: Place, call: Callable[[Any, str], T]) -> T:
    """Call with the file system and the path in it; again after a pause where that may help."""
    fs, path = _file_system(str(place))
    for pause in (*PAUSES, None):
        try:
            return call(fs, path)
        except LASTING:
            raise
        except Exception as error:  # each backend has its own class for a lost connection
            if pause is None:
                raise error if isinstance(error, OSError) else OSError(f"{place}: {error!r}") from error
            logger.warning("%s cannot be reached (%r); the next try is in %g s.", place, error, pause)
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def _file_system(url: str) -> tuple[Any, str]:
    protocol = url.partition("://")[0]
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = known_implementations.get(protocol, {}).get("class", "fsspec").partition(".")[0]
        remedy = f"`pip install {package}`" if package != "fsspec" else "install what it names"
        raise ImportError(f"{url} needs a package that is not installed ({error}): {remedy}.") from error
    except ValueError as error:
        raise ValueError(
            f"{url} cannot be reached: {error}. Known are local paths, s3://, gs://, az://, hf://."
        ) from error
    fs.invalidate_cache()  # the listings that a file system keeps do not know what other processes wrote
    return fs, path
