"""The long description of the package: the README, with links that work outside the repository.

A package index shows the README alone. Relative links lead to the address that `Repository` has in pyproject.toml, as
those of the site do; without an address they become plain text. The environment variable `DOCS_REPOSITORY`, such as
`https://.../blob/main`, takes its place. Everything else is in pyproject.toml.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from setuptools import setup

IMAGE = re.compile(r"!\[([^\]]*)\]\((?!https?://)([^)\s]+)\)")
LINK = re.compile(r"\[((?:!\[[^\]]*\]\([^)]*\)|[^\[\]])*)\]\((?!https?://)([^)\s]+)\)")  # also around an image


def find_repository(pyproject: str) -> str | None:
    """Return the address of the repository that pyproject.toml states; None if it states none.

    Args:
        pyproject: content of the file.
    """
    found = re.search(r'^Repository = "(.+?)/?"$', pyproject, re.MULTILINE)
    return found[1] if found else None


def address_of_files(root: Path) -> str | None:
    """Return the address that relative links lead to; None if there is none yet.

    Args:
        root: directory of the sources.
    """
    repository = find_repository((root / "pyproject.toml").read_text(encoding="utf-8"))
    return os.environ.get("DOCS_REPOSITORY") or (repository and f"{repository}/blob/main")


def long_description(readme: str, repository: str | None) -> str:
    """Replace the relative links of a page by links to the repository, or by their text.

    Args:
        readme: page in Markdown.
        repository: address of the files, such as `https://host/name/blob/main`; None if there is none yet.
    """
    if repository is None:
        return LINK.sub(r"\1", IMAGE.sub("", readme))
    address = repository.rstrip("/")
    raw = address.replace("/blob/", "/raw/")  # the page of an image is no image
    return LINK.sub(rf"[\1]({address}/\2)", IMAGE.sub(rf"![\1]({raw}/\2)", readme))


if __name__ == "__main__":
    root = Path(__file__).parent
    page = (root / "README.md").read_text(encoding="utf-8")
    setup(
        long_description=long_description(page, address_of_files(root)),
        long_description_content_type="text/markdown",
    )
