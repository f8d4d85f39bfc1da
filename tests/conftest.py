"""The environment of the tests, and where their fixtures are: tests/support/fixtures.py."""

from __future__ import annotations

import os
import tempfile

import pytest

from tests.support.own_home import take_own_home

# The tests have an empty home and empty caches of their own, so that nobody's files or settings decide what they see.
# Workers of pytest-xdist and jobs that tests launch inherit them.
if "NUGGETS_TESTS_HOME" not in os.environ:
    HOME = tempfile.TemporaryDirectory(prefix="nuggets-tests-")  # removed when this process ends
    take_own_home(os.environ, HOME.name)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tensors are tiny: threads only get in each other's way
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures where tests run: what only hands tests out to workers waits for no libraries."""
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    if is_worker or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("tests.support.fixtures")
