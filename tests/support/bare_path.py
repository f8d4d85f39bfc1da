"""The package on Python's path without being installed: no metadata says which version it has."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

from tests.support.launch import ROOT, environment

NAME = "nuggets_trainer"


def bare_path(place: Path) -> dict[str, str]:
    """The environment of such a process: links to all installed packages but ours, and to our sources.

    Start the process with `python -S`, so that it does not see the installed packages themselves.

    Args:
        place: empty directory for the links.
    """
    packages, sources = place / "packages", place / "sources"
    packages.mkdir()
    sources.mkdir()
    (sources / NAME).symlink_to(ROOT / NAME)
    folders = dict.fromkeys(Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib"))
    for folder in folders:
        for found in folder.iterdir():
            if NAME not in found.name.replace("-", "_"):
                (packages / found.name).symlink_to(found)
    return environment(PYTHONPATH=os.pathsep.join((str(sources), str(packages))))


def bare_python(*words: str) -> list[str]:
    """The words that start Python without the folders of installed packages."""
    return [sys.executable, "-S", *words]
