"""The badge that opens the notebook in Colab: written below the titles of the README and of the notebook.

The address of the repository stands in pyproject.toml alone. After a change there, run `python docs/badge.py`. Without
an address, or with one that is not on github.com (Colab opens no other), there is no badge.
"""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = "docs/notebooks/first_golden_set.ipynb"
IMAGE = "docs/_static/open_in_colab.svg"
GITHUB = "https://github.com/"
BADGE = re.compile(r"^\[!\[Open in Colab\].*\n\n", re.MULTILINE)
TITLE = re.compile(r"\A# .*\n\n")


def with_badge(page: str, image: str, repository: str | None) -> str:
    """Return a page in Markdown with the badge of this repository, and without that of any other.

    Args:
        page: text of the page, which begins with its title.
        image: path of the image from the page.
        repository: address of the repository; None if there is none yet.
    """
    page = BADGE.sub("", page)
    if repository is None or not repository.startswith(GITHUB):
        return page
    address = f"https://colab.research.google.com/github/{repository.removeprefix(GITHUB)}/blob/main/{NOTEBOOK}"
    return TITLE.sub(lambda title: f"{title[0]}[![Open in Colab]({image})]({address})\n\n", page)


def write_badges(root: Path) -> None:
    """Bring README and notebook of a clone into line with its pyproject.toml.

    Args:
        root: directory of the clone.
    """
    find_repository = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")["find_repository"]
    repository = find_repository((root / "pyproject.toml").read_text(encoding="utf-8"))
    readme = root / "README.md"
    readme.write_text(with_badge(readme.read_text(encoding="utf-8"), IMAGE, repository), encoding="utf-8")
    path = root / NOTEBOOK
    notebook = json.loads(path.read_text(encoding="utf-8"))
    title = notebook["cells"][0]
    page = with_badge("".join(title["source"]), "../_static/open_in_colab.svg", repository)
    title["source"] = page.splitlines(keepends=True)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_badges(ROOT)
