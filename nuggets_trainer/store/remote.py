"""Calls to a remote file system of fsspec, tried again if they fail in a way that may pass."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.registry import known_implementations

logger = logging.getLogger(__name__)

T = TypeVar("T")

PAUSES = (1.0, 4.0, 16.0)  # seconds before a failed remote call is tried again; the backends retry within seconds too

# Errors that a second try does not mend.
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


def call_remote(place: str | Path, call: Callable[[Any, str], T]) -> T:
    """Call with the file system and the path in it; after an error that may pass, try again.

    Args:
        place: URL of a file or directory.
        call: function of the file system and the path in it.

    Raises:
        OSError: if the last try fails as well, whatever class of error the backend raises.
        ImportError, ValueError: if fsspec cannot reach the URL.
    """
    fs, path = _file_system(str(place))
    for pause in (*PAUSES, None):
        try:
            return call(fs, path)
        except LASTING:
            raise
        except Exception as error:  # each backend has its own class for a lost connection
            if pause is None and isinstance(error, OSError):
                raise
            if pause is None:
                raise OSError(f"{place}: {error!r}") from error
            logger.warning("%s cannot be reached (%r); the next try is in %g s.", place, error, pause)
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def list_remote(fs: Any, path: str) -> dict[str, bool]:
    """Return the names in a directory and whether each is a file."""
    entries = {}
    for entry in fs.ls(path, detail=True):
        place = entry["name"].rstrip("/")
        if place != path.rstrip("/"):  # S3 lists an empty object that marks the directory as one of its entries
            entries[place.rsplit("/", 1)[-1]] = entry["type"] == "file"
    return entries


def _file_system(url: str) -> tuple[Any, str]:
    protocol = url.partition("://")[0]
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = known_implementations.get(protocol, {}).get("class", "fsspec").partition(".")[0]
        remedy = f"Run `pip install {package}`"
        if package == "fsspec":
            remedy = "Install the package that the error names"
        raise ImportError(f"{url} needs a package that is not installed ({error}). {remedy}.") from error
    except ValueError as error:
        raise ValueError(
            f"{url} cannot be reached: {error}. Use a local path, or a URL such as s3://, gs://, az://, hf://."
        ) from error
    fs.invalidate_cache()  # a cached listing lacks what other processes wrote since
    return fs, path
