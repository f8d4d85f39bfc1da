"""Every example in a docstring of the package runs and shows what it says."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import nuggets_trainer

PACKAGE = Path(nuggets_trainer.__file__).parent


def modules_with_examples() -> list[str]:
    paths = (path for path in PACKAGE.rglob("*.py") if ">>> " in path.read_text())
    names = (".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in paths)
    return sorted(name.removesuffix(".__init__") for name in names)


def test_every_docstring_example_runs():
    attempted = {name: doctest.testmod(importlib.import_module(name)) for name in modules_with_examples()}
    assert {name: found.failed for name, found in attempted.items() if found.failed or not found.attempted} == {}
    assert sum(found.attempted for found in attempted.values()) > 40
