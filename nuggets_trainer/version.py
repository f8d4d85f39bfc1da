"""The version of the package, in the only place that states it, and the versions of the packages around it.

pyproject.toml reads the number from this file. So it is also known where the package was not installed, and a path to
its sources is all that Python has.
"""

from __future__ import annotations

VERSION = "0.2.0"
UNKNOWN = "unknown"


def installed_version(package: str) -> str:
    """Return the version of another package; `unknown` where the package was put on the path without its metadata.

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
