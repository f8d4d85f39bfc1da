"""The version of the package, in the only place that states it, and the versions of the packages around it.

pyproject.toml reads the number from this file. So the number is also known if the package is on Python's path without
being installed.
"""

from __future__ import annotations

VERSION = "0.2.0"
UNKNOWN = "unknown"


def installed_version(package: str) -> str:
    """Return the version of another package; `unknown` if it is on Python's path without its metadata.

    Args:
        package: name under which the package is installed, such as `torch`.

    Example:
        >>> installed_version("no-such-package")
        'unknown'
    """
    from importlib import metadata  # late: it takes longer to import than all of `nuggets --help`

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return UNKNOWN
