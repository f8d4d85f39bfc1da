"""The long description of the package: the README, with links that work outside the repository.

A package index shows the README alone. With `DOCS_REPOSITORY=https://.../blob/main`, as for `make docs`, relative
links lead to this address; without it they become plain text. Everything else is in pyproject.toml.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from setuptools import setup

IMAGE = re.compile(r"!\[([^\]]*)\]\((?!https?://)([^)\s]+)\)")
LINK = re.compile(r"\[((?:!\[[^\]]*\]\([^)]*\)|[^\[\]])*)\]\((?!https?://)([^)\s]+)\)")  # also around an image


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
    page = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    setup(
        long_description=long_description(page, os.environ.get("DOCS_REPOSITORY")),
        long_description_content_type="text/markdown",
    )
